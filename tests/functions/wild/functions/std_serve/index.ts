import "jsr:@supabase/functions-js/edge-runtime.d.ts";
import { serve } from "https://deno.land/std@0.177.0/http/server.ts";
import { serve as same } from "std/http/server.ts";
import { createClient } from "https://esm.sh/@supabase/supabase-js@2?target=deno";
import { cors } from "shared/cors.ts";

const db = createClient(Deno.env.get("SUPABASE_URL")!, "a key");

serve(async (request: Request) => {
  if (request.method === "OPTIONS") return new Response("ok", { headers: cors });
  const { order_id } = await request.json();
  console.log("scored", order_id);
  const greeting = Deno.env.get("GREETING");
  return Response.json({ order_id, greeting, url: Deno.env.get("SUPABASE_URL"), same: serve === same, db: typeof db.from });
}, { port: 8000, hostname: "0.0.0.0" });
