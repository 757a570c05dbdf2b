// A scorer that misbehaves at its first call for each session, as TROUBLE says; afterwards it is well.
import { createClient } from "npm:@supabase/supabase-js@2";

const trouble = Deno.env.get("TROUBLE")!;
const seen = new Set<string>();
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export function troubled(name: string): void {
  Deno.serve(async (request) => {
    const handedOn = [...request.headers].filter(([header]) => header.startsWith("x-backfill-"));
    const db = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_SERVICE_ROLE_KEY")!, {
      global: { headers: trouble.startsWith("silent") ? {} : Object.fromEntries(handedOn) },
    });
    const asked = await request.json();
    const isFirst = !seen.has(asked.session_id);
    seen.add(asked.session_id);
    const score = () => db.rpc(name, asked);
    if (trouble.startsWith("one ")) {
      const { session, status, body } = JSON.parse(trouble.slice(4));
      if ([session].flat().includes(asked.session_id)) return new Response(body, { status });
    }
    if (trouble === "writes nothing") return Response.json({ status: "ok" });
    if (isFirst && trouble === "throws") throw new Error("a person's answer: 42");
    if (isFirst && trouble === "refuses") return Response.json({ error: "not now" }, { status: 422 });
    if (isFirst && trouble === "546") return Response.json({ code: "WORKER_LIMIT", message: "too much" }, { status: 546 });
    if (isFirst && trouble === "504") return new Response("<html>late</html>", { status: 504 });
    if (isFirst && trouble.endsWith("late")) await wait(700);
    const { data, error, status } = await score();
    if (isFirst && trouble === "a page") return new Response("<html>done</html>", { headers: { "Content-Type": "text/html" } });
    if (isFirst && trouble === "slow") await wait(700);
    return error ? Response.json(error, { status: status || 503 }) : Response.json(data);
  });
}
