/* The protocol between the database, workers, scoring calls, and whoever pauses, retries or undoes a run.

   A step here is atomic in PostgreSQL too: a statement that takes locks, a look under one snapshot, a commit. Anything
   else may happen between two steps. A verb is a transaction under the run's lock; what it wrote is seen when it
   commits. One that fails leaves nothing, as a request that got lost.

   A request may get lost before it is executed, and its answer afterwards. A worker may die at every step, and comes
   back without memory. The scoring call of a worker that died or gave up lives on, one such call at a time: it reaches
   the gate, commits or fails at any later moment. Time has no length: any moment may be the one when a lease runs out,
   or when a start leaves the window. The gate compares a fence and counts no calls; a worker sends one after the other.

   What only refuses more is left out: approval, spacing, back-off, breaker, canary, the digest of an undo. So are calls
   in bulk, which claim, write and settle in one transaction. A completed run is a paused one here: neither scores, both
   can be undone, and a retry goes on with the first as resume does with the second. A verb that is about many sessions
   is one verb per session here.

   Each macro that configurations.py names takes one safeguard out. */

/* The size, which configurations.py chooses. */
#ifndef SESSIONS
#define SESSIONS 2
#define COMPONENTS 1
#define FENCES 2   /* attempts per session, a claim asked again included. The model's bound, not the protocol's */
#define WINDOW 2   /* starts per minute. 0: no throttle */
#define FRESH 2    /* a lease: it gets old, then it runs out. A renewal makes an old one fresh. 1: it is never old */
#endif
#define PAUSES 1
#define EDITS 1    /* by live traffic */
#define ALL ((1 << COMPONENTS) - 1)

/* The invariants. All are watched, or the one that WATCHED names. */
#define ONCE 1     /* at most one commit per session and component */
#define FENCED 2   /* no write after its fence moved */
#define PACED 3    /* no start beyond the window */
#define OLDER 4    /* an undo touches nothing newer than what the run wrote */
#define TRUE 5     /* every settled outcome is true */
#define NEVER 6    /* no invariant: that nothing is ever scored and undone. The search has to find that it is */
#ifndef WATCHED
#define WATCHED 0
#endif
#define holds(name, condition) assert((WATCHED != 0 && WATCHED != name) || (condition))

#define NOBODY 0
#define SOMEBODY 3   /* who is no worker, or whose claim id nobody knows any more */

mtype = { PENDING, LEASED, DONE, FAILED, UNDONE };   /* a session */
mtype = { UNKNOWN, ANSWERED, REFUSED };              /* what a worker tells of it */

typedef Item {   /* backfill_items. Masks have a bit per component */
  mtype state = PENDING;
  byte fence;      /* the newest one. It is null unless the item is leased */
  byte lease;      /* 0: it ran out */
  byte claim;      /* the worker whose claim id it is */
  bit locked;      /* for update */
  byte shared;     /* for key share, by calls in flight */
  byte receipts;   /* mask of what is written and not undone */
  byte newer;      /* mask of the rows that live traffic has changed since */
  bit rows_locked  /* by an undo */
};
Item item[2];
bit running = 1;
byte run_lock = NOBODY;
byte window = 0;   /* starts of the last minute */
byte pauses = 0, edits = 0;

/* The call that nobody waits for any more: its session, its fence, its component (0: there is none). */
byte late_s, late_f, late_c;
bit late_shares;

#define is_mine(s) (item[s].state == LEASED && item[s].claim == me)

/* locked_run: each verb begins with it. */
#ifdef NO_RUN_LOCK
#define run_is_free true
#else
#define run_is_free (run_lock == NOBODY)
#endif

/* select … for update: it waits for a call in flight. */
#define is_free(s) (item[s].shared == 0 && !item[s].locked)

/* The gate, keep_receipt: it compares the fence and locks the item for key share nowait. */
#ifdef NO_FENCE
#define is_its(s, f) true
#else
#define is_its(s, f) (item[s].fence == f)
#endif
#ifdef NO_ROW_LOCK
#define share(s, n) skip
#else
#define share(s, n) item[s].shared = item[s].shared + n
#endif
#define is_open(s, f) (running && item[s].state == LEASED && is_its(s, f) && item[s].lease > 0 && !item[s].locked)

/* A scoring call's commit: its row, and the receipt that the gate wrote. */
inline commit(s, f, c) {
  holds(FENCED, item[s].state == LEASED && item[s].fence == f);
  holds(ONCE, !(item[s].receipts & c));
  item[s].receipts = item[s].receipts | c;
  share(s, -1)
}

/* decide_outcomes: first the item (held_items), then a look at the receipts (effects_of_steps), then the outcome. */
inline look(s, when, who) {
#ifdef SETTLE_FIRST
  atomic { run_is_free && when ->
    run_lock = who; seen = item[s].receipts; printf("receipts of %d are read\n", s) }
#else
  atomic { run_is_free && when && is_free(s) ->
    run_lock = who; item[s].locked = 1; seen = item[s].receipts; printf("receipts of %d are read\n", s) }
#endif
}
#ifdef SETTLE_FIRST
#define has_item(s) is_free(s)
#else
#define has_item(s) item[s].locked
#endif
inline decide(s, told) {
#ifdef NO_RECEIPTS
  seen = (told == ANSWERED -> ALL : 0);
#endif
  item[s].state = (seen == ALL -> DONE : (told == REFUSED -> FAILED : PENDING));
  item[s].lease = 0; item[s].claim = NOBODY;
  item[s].locked = 0; run_lock = NOBODY; seen = 0;
  holds(TRUE, (item[s].state == DONE) == (item[s].receipts == ALL))
}

/* grant_fences: a new fence. The steps leave out what has a receipt. */
inline grant() {
  item[s].state = LEASED; item[s].fence++; item[s].lease = FRESH; item[s].claim = me;
  item[s].locked = 0; run_lock = NOBODY;
  f = item[s].fence;
#ifdef NO_STEPS
  todo = ALL
#else
  todo = ALL & ~item[s].receipts
#endif
}

/* A start, in plan order: a look at the window (allowance), the item (ready_items, skip locked), then count_starts. */
inline ask(n) {
  atomic { n < SESSIONS && (n == 0 || item[0].fence != 0 || item[0].locked) &&
    run_is_free && running && (WINDOW == 0 || window < WINDOW) &&
    item[n].state == PENDING && item[n].fence < FENCES && is_free(n) ->
    s = n; run_lock = me; item[s].locked = 1; printf("worker %d asks for %d\n", me, s) }
}

inline forget() {
  if
  :: item[s].claim == me -> item[s].claim = SOMEBODY
  :: else
  fi;
  s = 0; f = 0; todo = 0; told = 0
}

#define next(todo) (todo & -todo)

/* A worker that gives up or dies leaves its call behind. */
inline leave(shares) {
  late_s = s; late_f = f; late_c = next(todo); late_shares = shares;
  printf("worker %d leaves its call of %d\n", me, s);
  if
  :: told = UNKNOWN; goto settle
  :: goto over
  fi
}

proctype Worker(byte me) {
  byte s, f, todo, seen;   /* the session, its fence, the mask of what is left to score */
  mtype told;

end_idle:
  if
  :: ask(0)
  :: ask(1)
  fi;
  atomic {
    printf("worker %d claims %d\n", me, s);
    grant(); window = window + (WINDOW != 0); holds(PACED, window <= WINDOW);
granted:
    if
    :: goto score
    :: f = 0; todo = 0; goto again   /* the answer gets lost */
    :: goto over                     /* it dies */
    fi
  };

score:
  if
  :: atomic { todo == 0 -> told = ANSWERED; goto settle }
  :: d_step { todo != 0 && is_open(s, f) -> share(s, 1); printf("worker %d writes row %d of %d\n", me, next(todo), s) }
  :: atomic { todo != 0 ->   /* refused, or lost */
       told = UNKNOWN; printf("worker %d gives up row %d of %d\n", me, next(todo), s); goto settle }
  :: atomic { todo != 0 && late_c == 0 -> leave(0) }
  fi;
  if
  :: atomic {
       printf("worker %d commits row %d of %d\n", me, next(todo), s);
       commit(s, f, next(todo));
       if
       :: todo = todo & ~next(todo); goto score
       :: told = UNKNOWN; printf("worker %d hears nothing of %d\n", me, s); goto settle
       :: goto over
       fi }
  :: atomic {   /* its transaction fails */
       share(s, -1); told = REFUSED; printf("worker %d fails at row %d of %d\n", me, next(todo), s); goto settle }
  :: atomic { late_c == 0 -> leave(1) }
  fi;

settle:   /* what is no longer leased under this claim stays as it is */
  if
  :: look(s, is_mine(s), me);
     d_step { has_item(s) -> decide(s, told); printf("worker %d settles %d: %e\n", me, s, item[s].state) };
     goto settle                              /* the answer gets lost */
  :: atomic { true -> goto over }
  fi;

again:    /* the same claim, asked again: new fences, no new starts */
  if
  :: atomic { run_is_free && running && is_mine(s) && item[s].fence < FENCES && is_free(s) ->
       grant(); printf("worker %d claims %d again\n", me, s); goto granted }
  :: atomic { true -> goto over }
  fi;

over:
  atomic { forget(); goto end_idle }
}

proctype Late() {
end:
  do
  :: d_step { late_c != 0 && !late_shares && is_open(late_s, late_f) ->
       late_shares = 1; share(late_s, 1); printf("a late call writes row %d of %d\n", late_c, late_s) }
  :: d_step { late_shares ->
       printf("a late call commits row %d of %d\n", late_c, late_s);
       commit(late_s, late_f, late_c);
       late_s = 0; late_f = 0; late_c = 0; late_shares = 0 }
  :: d_step { late_c != 0 -> share(late_s, -late_shares); late_s = 0; late_f = 0; late_c = 0; late_shares = 0 }
  od
}

/* Everyone else. */
proctype Others(byte s) {
  byte seen;

end:
  do
  /* release_expired, by a claim of any run. It passes a call in flight over. */
  :: look(s, (item[s].state == LEASED && item[s].lease == 0), SOMEBODY);
     d_step { has_item(s) -> decide(s, UNKNOWN); printf("others release %d: %e\n", s, item[s].state) }
  /* take_leases_back, with which an undo begins */
  :: look(s, (item[s].state == LEASED && !running), SOMEBODY);
     d_step { has_item(s) -> decide(s, UNKNOWN); printf("others take back %d: %e\n", s, item[s].state) }
  /* undo_at_once: the item, then a look that locks the rows (undo_conflicts), then the writes */
  :: atomic { run_is_free && !running && item[s].receipts != 0 && item[s].state != LEASED && is_free(s) ->
       run_lock = SOMEBODY; item[s].locked = 1;
#ifdef UNDO_BLIND
       seen = item[s].receipts;
#else
       seen = item[s].receipts & ~item[s].newer;
#endif
#ifndef UNDO_LOOSE
       item[s].rows_locked = 1;
#endif
       printf("others look at %d\n", s) };
     d_step {
       printf("others undo %d\n", s);
       holds(OLDER, !(seen & item[s].newer));
       item[s].receipts = item[s].receipts & ~seen;
       item[s].state = (seen != 0 -> UNDONE : item[s].state);
       item[s].locked = 0; item[s].rows_locked = 0; run_lock = NOBODY; seen = 0;
       holds(NEVER, WATCHED != NEVER || item[0].state != UNDONE || item[1].state != DONE) }
  /* retry */
  :: d_step { run_is_free && item[s].state == FAILED -> item[s].state = PENDING; printf("others retry %d\n", s) }
  /* halt */
  :: d_step { s == 0 && run_is_free && running && pauses < PAUSES -> running = 0; pauses++; printf("others pause\n") }
  /* resume */
  :: d_step { s == 0 && run_is_free && !running -> running = 1; printf("others resume\n") }
  od
}

/* Renewals, time, live traffic. */
proctype World(byte s) {
end:
  do
  /* renew */
  :: d_step { item[s].state == LEASED && item[s].lease > 0 && item[s].lease < FRESH && running && !item[s].locked ->
       item[s].lease = FRESH }
  /* Time passes. */
  :: d_step { item[s].lease > 0 -> item[s].lease--; printf("time ends lease %d\n", s) }
  :: d_step { s == 0 && window > 0 -> window--; printf("time passes\n") }
  /* Live traffic changes a row that the run wrote. Before a pause it would change the same. */
  :: d_step { !running && edits < EDITS && item[s].receipts != 0 && !item[s].rows_locked ->
       edits++; item[s].newer = next(item[s].receipts); printf("others edit %d\n", s) }
  od
}

init { atomic { run World(0); run World(1); run Others(0); run Others(1); run Late(); run Worker(2); run Worker(1) } }
