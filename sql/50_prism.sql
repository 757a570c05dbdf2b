-- Target prism, made from its declaration: backfill install --target FILE.

set local lock_timeout = '3s';

select backfill_private.declare_target('{
  "target": "prism",
  "source": {
    "schema": "public",
    "table": "assessment_sessions",
    "key": "id",
    "date": "created_at",
    "filters": [
      {
        "column": "status",
        "values": [
          "completed"
        ]
      }
    ],
    "needs": [
      {
        "name": "responses",
        "schema": "public",
        "table": "assessment_responses",
        "column": "session_id",
        "parameter": "min_responses",
        "component": null
      },
      {
        "name": "forced-choice responses",
        "schema": "public",
        "table": "fc_responses",
        "column": "session_id",
        "parameter": "min_fc_responses",
        "component": "fc_scores"
      }
    ],
    "index": "backfill_completed_sessions"
  },
  "defaults": {
    "basis": "functions",
    "min_responses": 1,
    "min_fc_responses": 1
  },
  "components": [
    {
      "component": "fc_scores",
      "schema": "public",
      "table": "fc_scores",
      "session": "session_id",
      "key": [
        "session_id",
        "version",
        "fc_kind"
      ],
      "version_column": "version",
      "version": "v1.2",
      "version_parameter": "fc_version",
      "any_version_counts": false,
      "matches": {
        "fc_kind": "basis"
      },
      "transport": "rpc",
      "function": "public.score_fc_session(uuid,text,text)",
      "function_version": null,
      "receipts": "exact",
      "arguments": {
        "session_id": "session_id",
        "version": "fc_version",
        "basis": "basis"
      },
      "helpers": [],
      "needs_first": [],
      "score_ranges": {
        "scores_json": [
          0,
          100
        ]
      }
    },
    {
      "component": "profile",
      "schema": "public",
      "table": "profiles",
      "session": "session_id",
      "key": [
        "session_id"
      ],
      "version_column": "results_version",
      "version": "v1.2.1",
      "version_parameter": "engine_version",
      "any_version_counts": true,
      "matches": {},
      "transport": "rpc",
      "function": "public.score_prism(uuid,text)",
      "function_version": null,
      "receipts": "exact",
      "arguments": {
        "session_id": "session_id",
        "engine_version": "engine_version"
      },
      "helpers": [],
      "needs_first": [
        "fc_scores"
      ],
      "score_ranges": {}
    }
  ],
  "views": [
    "backfill_private.prism_standing",
    "backfill_private.prism_gaps",
    "public.backfill_candidates",
    "public.backfill_missing_fc_scores",
    "public.backfill_missing_profiles",
    "public.backfill_daily_coverage"
  ]
}'::jsonb);

create view "backfill_private"."prism_standing" with (security_invoker = true) as
SELECT
  "s"."id" AS "id",
  CAST("s"."created_at" AS TIMESTAMPTZ) AS "created_at",
  "c1"."session_id" IS NULL AS "missing_fc_scores",
  "c2"."session_id" IS NULL AS "missing_profile",
  CASE
    WHEN NOT "c1"."session_id" IS NULL AND NOT "c2"."session_id" IS NULL
    THEN NULL
    WHEN (
      SELECT
        COUNT(*)
      FROM (
        SELECT
          1 AS "one"
        FROM "public"."assessment_responses" AS "n"
        WHERE
          "n"."session_id" = "s"."id"
        LIMIT (
          CAST((
            SELECT
              "backfill_private".parameter('prism', 'min_responses')
          ) AS BIGINT)
        )
      ) AS "enough"
    ) < CAST((
      SELECT
        "backfill_private".parameter('prism', 'min_responses')
    ) AS BIGINT)
    THEN FORMAT(
      '%s responses, at least %s needed',
      (
        SELECT
          COUNT(*)
        FROM "public"."assessment_responses" AS "n"
        WHERE
          "n"."session_id" = "s"."id"
      ),
      (
        SELECT
          "backfill_private".parameter('prism', 'min_responses')
      )
    )
    WHEN "c1"."session_id" IS NULL
    AND (
      SELECT
        COUNT(*)
      FROM (
        SELECT
          1 AS "one"
        FROM "public"."fc_responses" AS "n"
        WHERE
          "n"."session_id" = "s"."id"
        LIMIT (
          CAST((
            SELECT
              "backfill_private".parameter('prism', 'min_fc_responses')
          ) AS BIGINT)
        )
      ) AS "enough"
    ) < CAST((
      SELECT
        "backfill_private".parameter('prism', 'min_fc_responses')
    ) AS BIGINT)
    THEN FORMAT(
      '%s forced-choice responses, at least %s needed',
      (
        SELECT
          COUNT(*)
        FROM "public"."fc_responses" AS "n"
        WHERE
          "n"."session_id" = "s"."id"
      ),
      (
        SELECT
          "backfill_private".parameter('prism', 'min_fc_responses')
      )
    )
  END AS "excluded"
FROM "public"."assessment_sessions" AS "s"
LEFT JOIN "public"."fc_scores" AS "c1"
  ON "c1"."session_id" = "s"."id"
  AND CAST("c1"."version" AS TEXT) = (
    SELECT
      "backfill_private".parameter('prism', 'fc_version')
  )
  AND CAST("c1"."fc_kind" AS TEXT) = (
    SELECT
      "backfill_private".parameter('prism', 'basis')
  )
LEFT JOIN "public"."profiles" AS "c2"
  ON "c2"."session_id" = "s"."id"
WHERE
  "s"."status" = 'completed';

create view "backfill_private"."prism_gaps" with (security_invoker = true) as
SELECT
  CAST("g"."id" AS TEXT) AS "session_id",
  "g"."created_at" AS "session_at",
  ARRAY_REMOVE(
    CAST(ARRAY[
      CASE WHEN "g"."missing_fc_scores" THEN 'fc_scores' END,
      CASE WHEN "g"."missing_profile" THEN 'profile' END
    ] AS TEXT[]),
    NULL
  ) AS "components",
  "g"."excluded",
  "g"."missing_fc_scores",
  "g"."missing_profile"
FROM "backfill_private"."prism_standing" AS "g"
WHERE
  "g"."missing_fc_scores" OR "g"."missing_profile";

create view "public"."backfill_candidates" with (security_invoker = true) as
SELECT
  "g"."session_id",
  ARRAY_TO_STRING(
    ARRAY_REMOVE(
      CAST(ARRAY[
        CASE WHEN "g"."missing_profile" THEN 'profile' END,
        CASE WHEN "g"."missing_fc_scores" THEN 'fc_scores' END
      ] AS TEXT[]),
      NULL
    ),
    '+'
  ) AS "category",
  "g"."session_at" AS "created_at",
  "g"."missing_fc_scores",
  "g"."missing_profile"
FROM "backfill_private"."prism_gaps" AS "g"
WHERE
  "g"."excluded" IS NULL;

comment on view "public"."backfill_candidates" is 'Sessions of target prism that lack fc_scores or profile and can be scored.';
comment on column "public"."backfill_candidates"."session_id" is 'The session.';
comment on column "public"."backfill_candidates"."created_at" is 'When the session was created: the date that decides everywhere.';
comment on column "public"."backfill_candidates"."category" is 'What it lacks, the last derived first, joined by +.';
comment on column "public"."backfill_candidates"."missing_fc_scores" is 'It has no fc_scores of the wanted version.';
comment on column "public"."backfill_candidates"."missing_profile" is 'It has no profile of any version.';

create view "public"."backfill_missing_fc_scores" with (security_invoker = true) as
SELECT
  "c"."session_id",
  "c"."created_at",
  (
    SELECT
      "backfill_private".parameter('prism', 'fc_version')
  ) AS "wanted_version",
  "c"."missing_profile" AS "profile_missing_too"
FROM "public"."backfill_candidates" AS "c"
WHERE
  "c"."missing_fc_scores";

comment on view "public"."backfill_missing_fc_scores" is 'Candidates without fc_scores.';
comment on column "public"."backfill_missing_fc_scores"."session_id" is 'The session.';
comment on column "public"."backfill_missing_fc_scores"."created_at" is 'When the session was created: the date that decides everywhere.';
comment on column "public"."backfill_missing_fc_scores"."wanted_version" is 'The version that is wanted, from backfill_targets.';
comment on column "public"."backfill_missing_fc_scores"."profile_missing_too" is 'It lacks profile as well.';

create view "public"."backfill_missing_profiles" with (security_invoker = true) as
SELECT
  "c"."session_id",
  "c"."created_at",
  "c"."missing_fc_scores" AS "fc_scores_missing_too"
FROM "public"."backfill_candidates" AS "c"
WHERE
  "c"."missing_profile";

comment on view "public"."backfill_missing_profiles" is 'Candidates without profile.';
comment on column "public"."backfill_missing_profiles"."session_id" is 'The session.';
comment on column "public"."backfill_missing_profiles"."created_at" is 'When the session was created: the date that decides everywhere.';
comment on column "public"."backfill_missing_profiles"."fc_scores_missing_too" is 'It lacks fc_scores as well.';

create view "public"."backfill_daily_coverage" with (security_invoker = true) as
SELECT
  "d"."day",
  "d"."completed",
  "d"."complete",
  "d"."missing_fc_scores",
  "d"."missing_profile",
  "d"."missing_both",
  "d"."excluded",
  ROUND(
    CAST("d"."complete" AS DECIMAL) / NULLIF((
      "d"."completed" - "d"."excluded"
    ), 0),
    4
  ) AS "coverage"
FROM (
  SELECT
    CAST("s"."created_at" AT TIME ZONE 'UTC' AS DATE) AS "day",
    COUNT(*) AS "completed",
    COUNT(*) FILTER(WHERE
      NOT "s"."missing_fc_scores" AND NOT "s"."missing_profile") AS "complete",
    COUNT(*) FILTER(WHERE
      "s"."missing_fc_scores" AND "s"."excluded" IS NULL) AS "missing_fc_scores",
    COUNT(*) FILTER(WHERE
      "s"."missing_profile" AND "s"."excluded" IS NULL) AS "missing_profile",
    COUNT(*) FILTER(WHERE
      "s"."missing_fc_scores" AND "s"."missing_profile" AND "s"."excluded" IS NULL) AS "missing_both",
    COUNT(*) FILTER(WHERE
      NOT "s"."excluded" IS NULL) AS "excluded"
  FROM "backfill_private"."prism_standing" AS "s"
  GROUP BY
    1
) AS "d"
ORDER BY
  "d"."day";

comment on view "public"."backfill_daily_coverage" is 'Sessions of target prism by UTC day, and what share of those that can be scored lacks nothing.';
comment on column "public"."backfill_daily_coverage"."day" is 'UTC day on which the sessions were created.';
comment on column "public"."backfill_daily_coverage"."completed" is 'Sessions of that day.';
comment on column "public"."backfill_daily_coverage"."complete" is 'Of these, those that lack nothing.';
comment on column "public"."backfill_daily_coverage"."missing_fc_scores" is 'Of these, those without fc_scores that can be scored.';
comment on column "public"."backfill_daily_coverage"."missing_profile" is 'Of these, those without profile that can be scored.';
comment on column "public"."backfill_daily_coverage"."missing_both" is 'Of these, those that lack all and can be scored.';
comment on column "public"."backfill_daily_coverage"."excluded" is 'Sessions that lack something and have too little of what scoring reads.';
comment on column "public"."backfill_daily_coverage"."coverage" is 'Share of the sessions that can be scored, 0 to 1; null where none can.';

-- Under row level security an ordinary user would see present rows as missing.
revoke all on "backfill_private"."prism_standing", "backfill_private"."prism_gaps", "public"."backfill_candidates", "public"."backfill_missing_fc_scores", "public"."backfill_missing_profiles", "public"."backfill_daily_coverage"
from public, anon, authenticated, service_role;
grant select on "backfill_private"."prism_standing", "backfill_private"."prism_gaps", "public"."backfill_candidates", "public"."backfill_missing_fc_scores", "public"."backfill_missing_profiles", "public"."backfill_daily_coverage"
to service_role;
