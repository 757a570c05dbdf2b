Deno.serve(async (request) => {
  const said = await request.text();
  if (said === "wait") EdgeRuntime.waitUntil(Promise.reject(new Error("failed beside")));
  if (said === "forget") Promise.reject(new Error("failed unseen"));
  if (said === "leave") Deno.exit(3);
  return new Response(`hooked ${said}`);
});
