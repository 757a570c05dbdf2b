// The SQL function of supabase/examples/orders as an Edge Function, as people write them: no header is handed on.
import { createClient } from "npm:@supabase/supabase-js@2";

const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!);

Deno.serve(async (request) => {
  const { order_id, version } = await request.json();
  const lines = await db.from("order_lines").select("quantity, unit_cents").eq("order_id", order_id);
  if (lines.error) return Response.json(lines.error, { status: 500 });
  const total_cents = lines.data.reduce((sum, line) => sum + line.quantity * line.unit_cents, 0);
  const { error } = await db.from("invoices").upsert({ order_id, version, total_cents });
  return error ? Response.json(error, { status: 500 }) : Response.json({ total_cents });
});
