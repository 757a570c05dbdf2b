// Embeds the plain text of one document. The vector here is a stand-in, made of the text's hash: call your model instead.
import { handOn } from "../_shared/backfill.ts";
import { createClient } from "npm:@supabase/supabase-js@2";

const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!);

async function embedding(text: string, model: string): Promise<number[]> {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${model}\n${text}`));
  return [...new Uint8Array(hash)].slice(0, 8).map((byte) => (byte - 127.5) / 127.5);
}

Deno.serve(handOn(async (request) => {
  const { document_id, model } = await request.json();
  const found = await db.rpc("document_text", { document_id });
  if (found.error) return Response.json(found.error, { status: found.status || 503 });
  if (found.data === null) return Response.json({ error: "the document has no plain text" }, { status: 422 });
  const vector = await embedding(found.data, model);
  const saved = await db.rpc("save_embedding", { document_id, model, vector });
  // The database's error as it came: backfill then knows what it means. 0: there was no answer.
  return saved.error ? Response.json(saved.error, { status: saved.status || 503 }) : Response.json({ dimensions: vector.length });
}));
