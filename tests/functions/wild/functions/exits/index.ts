Deno.exit(1);
