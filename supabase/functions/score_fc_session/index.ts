// Scores the forced-choice answers of one session; the SQL function of the same name does the work.
import { createClient } from "npm:@supabase/supabase-js@2";

Deno.serve(async (request) => {
  const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!, {
    // Hands the headers of backfill on, so that the row that is written has its receipt.
    global: { headers: Object.fromEntries([...request.headers].filter(([name]) => name.startsWith("x-backfill-"))) },
  });
  const { data, error, status } = await db.rpc("score_fc_session", await request.json());
  // The database's error as it came: backfill then knows what it means. 0: there was no answer.
  return error ? Response.json(error, { status: status || 503 }) : Response.json(data);
});
