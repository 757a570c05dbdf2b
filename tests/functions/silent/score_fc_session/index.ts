// As the sample's, but that it hands no header on.
import { createClient } from "npm:@supabase/supabase-js@2";

Deno.serve(async (request) => {
  const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!);
  const { data, error, status } = await db.rpc("score_fc_session", await request.json());
  return error ? Response.json(error, { status: status || 503 }) : Response.json(data);
});
