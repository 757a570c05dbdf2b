Deno.serve(() => new Response("retired"));
