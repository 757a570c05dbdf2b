const listener = Deno.listen({ hostname: "0.0.0.0", port: 8000 });

async function serveOne(connection: Deno.Conn) {
  // deno-lint-ignore no-explicit-any
  for await (const event of (Deno as any).serveHttp(connection)) {
    event.respondWith(new Response(`listened to ${await event.request.text()}`));
  }
}

for await (const connection of listener) serveOne(connection);
