// Derives the profile of one session; the SQL function of the same name does the work.
import { handOn } from "../_shared/backfill.ts";
import { createClient } from "npm:@supabase/supabase-js@2";

const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!);

Deno.serve(handOn(async (request) => {
  const { data, error, status } = await db.rpc("score_prism", await request.json());
  // The database's error as it came: backfill then knows what it means. 0: there was no answer.
  return error ? Response.json(error, { status: status || 503 }) : Response.json(data);
}));
