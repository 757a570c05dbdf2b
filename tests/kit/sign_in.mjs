// Signs in at a stack with the real client and tells what it got, as one line of JSON.
import { createRequire } from "node:module";

const { HOME_OF_PACKAGE, URL_OF_PROJECT, KEY, EMAIL, PASSWORD, FACTOR_CODE, RUN, DIGEST } =
  process.env;
const { createClient } = createRequire(`${HOME_OF_PACKAGE}/`)("@supabase/supabase-js");
const client = createClient(URL_OF_PROJECT, KEY, {
  auth: { persistSession: false, autoRefreshToken: false },
});
const told = {};
const named = ({ error }) => error && { name: error.name, code: error.code, status: error.status };
const approve = async () => (await client.rpc("backfill_approve", { run: RUN, digest: DIGEST })).error;

told.wrong = named(await client.auth.signInWithPassword({ email: EMAIL, password: "no" }));
const { data } = await client.auth.signInWithPassword({ email: EMAIL, password: PASSWORD });
told.email = data.user.email;
told.expires_in = data.session.expires_in;
told.read = (await client.auth.getUser()).data.user.app_metadata.backfill_role;
told.levels = (await client.auth.mfa.getAuthenticatorAssuranceLevel()).data;
told.refused = (await approve()).code;
const [factor] = (await client.auth.mfa.listFactors()).data.totp;
const raise = (code) => client.auth.mfa.challengeAndVerify({ factorId: factor.id, code });
told.wrong_factor = named(await raise("000000"));
told.raised = named(await raise(FACTOR_CODE));
told.used_factor = named(await raise(FACTOR_CODE));
const first = (await client.auth.getSession()).data.session;
const refreshed = await client.auth.refreshSession();
told.refreshed = refreshed.data.session.access_token !== first.access_token || "the same second";
told.level = (await client.auth.mfa.getAuthenticatorAssuranceLevel()).data.currentLevel;
told.approved = await approve();
told.used = named(await client.auth.refreshSession({ refresh_token: first.refresh_token }));
told.ended = named(await client.auth.getUser(refreshed.data.session.access_token));
await client.auth.signInWithPassword({ email: EMAIL, password: PASSWORD });
told.out = named(await client.auth.signOut());
console.log(JSON.stringify(told));
