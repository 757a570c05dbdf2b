await new Promise((resolve) => setTimeout(resolve, 3_600_000));
Deno.serve(() => new Response("never"));
