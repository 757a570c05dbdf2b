if (!Deno.env.get("OPENAI_API_KEY")) throw new Error("OPENAI_API_KEY is not set");
Deno.serve(() => new Response("never"));
