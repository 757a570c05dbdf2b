import "./absent.ts"; Deno.serve(() => new Response("never"));
