/* The thread team. The caller is thread 0; each other thread sleeps at its own doorbell and the last one to finish rings the
 * caller's. Job fields are written by the caller before it rings and read by the workers after they heard it, so the bells
 * carry all the ordering.
 *
 * Threads spin at a bell for about the time that waking one costs (16-25 us measured on an idle core), and only while all teams
 * of the process together have no more threads than there are cores. */
#include "team.h"

#include <hwloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "alloc.h"
#include "bell.h"
#include "checked.h"
#include "compiler.h"

enum { MAX_THREADS = 1024, MAX_CORES = 1024, SPINS = 2000 };

typedef struct worker {
    qn_bell start; /* rung once per job */
    pthread_t thread;
    struct qn_team *team;
    int32_t index, core; /* core -1: not pinned */
} worker;

struct qn_team {
    qn_bell done;
    QN_ALIGNED(QN_CACHE_LINE) _Atomic int32_t left; /* workers still at the job */
    int32_t threads, started;
    qn_team_fn *fn; /* the job; NULL: leave */
    void *ctx;
    worker worker[]; /* threads - 1; worker[i] is thread i + 1 */
};

/* The machine, looked at once: which cores this process may use. */
static struct {
    pthread_once_t once;
    hwloc_topology_t topology;
    int32_t cores;
    int32_t unit[MAX_CORES]; /* first usable processing unit of each usable core */
    _Atomic int32_t live;    /* threads of all open teams */
} machine = {.once = PTHREAD_ONCE_INIT};

static void list_units(hwloc_obj_type_t type, hwloc_const_cpuset_t usable, hwloc_bitmap_t set)
{
    hwloc_obj_t obj = NULL;
    while (machine.cores < MAX_CORES && (obj = hwloc_get_next_obj_by_type(machine.topology, type, obj)) != NULL) {
        hwloc_bitmap_and(set, obj->cpuset, usable);
        const int unit = hwloc_bitmap_first(set);
        if (unit >= 0) machine.unit[machine.cores++] = unit;
    }
}

static void look_at_machine(void)
{
    if (hwloc_topology_init(&machine.topology) != 0) return;
    if (hwloc_topology_load(machine.topology) != 0) {
        hwloc_topology_destroy(machine.topology);
        machine.topology = NULL;
        return;
    }
    hwloc_bitmap_t usable = hwloc_bitmap_alloc(), set = hwloc_bitmap_alloc();
    if (usable != NULL && set != NULL) {
        if (hwloc_get_cpubind(machine.topology, usable, HWLOC_CPUBIND_PROCESS) != 0)
            hwloc_bitmap_copy(usable, hwloc_topology_get_allowed_cpuset(machine.topology));
        list_units(HWLOC_OBJ_CORE, usable, set);
        if (machine.cores == 0) list_units(HWLOC_OBJ_PU, usable, set);
    }
    hwloc_bitmap_free(usable);
    hwloc_bitmap_free(set);
}

int32_t qn_team_cores(void)
{
    pthread_once(&machine.once, look_at_machine);
    return qn_max32(machine.cores, 1);
}

void qn_team_pin_self(int32_t core)
{
    const int32_t cores = qn_team_cores();
    if (machine.cores == 0) return;
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (set == NULL) return;
    for (int32_t i = 0; i < machine.cores; i++)
        if (core < 0 || i == core % cores) hwloc_bitmap_set(set, (unsigned)machine.unit[i]);
    (void)hwloc_set_cpubind(machine.topology, set, HWLOC_CPUBIND_THREAD);
    hwloc_bitmap_free(set);
}

static int32_t spins(void)
{
    return atomic_load_explicit(&machine.live, memory_order_relaxed) <= qn_team_cores() ? SPINS : 0;
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    qn_team *team = w->team;
    qn_team_pin_self(w->core);
    for (uint32_t jobs = 0;; jobs++) {
        while (qn_bell_look(&w->start) == jobs) qn_bell_wait(&w->start, jobs, spins(), -1);
        if (team->fn == NULL) return NULL;
        team->fn(team->ctx, w->index, team->threads);
        if (atomic_fetch_sub_explicit(&team->left, 1, memory_order_acq_rel) == 1) qn_bell_ring(&team->done);
    }
}

qn_status qn_team_open(qn_team **out, int32_t threads, int32_t first_core, qn_err *err)
{
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS)
        return QN_FAIL(err, QN_ERANGE, "a team of %d threads was asked for; 1 to %d are possible", threads, MAX_THREADS);
    const int32_t cores = qn_team_cores();
    const size_t bytes = sizeof(qn_team) + (size_t)(threads - 1) * sizeof(worker);
    qn_team *team = qn_alloc_pages(bytes); /* zeroed, and aligned for the bells */
    if (team == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a team of %d threads", threads);
    team->threads = threads;
    qn_bell_init(&team->done);
    atomic_init(&team->left, 0);
    atomic_fetch_add_explicit(&machine.live, threads, memory_order_relaxed);
    for (int32_t i = 1; i < threads; i++) {
        worker *w = &team->worker[i - 1];
        *w = (worker){.team = team, .index = i, .core = first_core < 0 ? -1 : (first_core % cores + i) % cores};
        qn_bell_init(&w->start);
        const int failed = pthread_create(&w->thread, NULL, worker_main, w);
        if (failed != 0) {
            qn_team_close(team);
            return QN_FAIL(err, QN_ENOMEM, "thread %d of %d did not start: %s", i, threads, strerror(failed));
        }
        team->started++;
    }
    *out = team;
    return QN_OK;
}

void qn_team_close(qn_team *team)
{
    if (team == NULL) return;
    team->fn = NULL;
    for (int32_t i = 0; i < team->started; i++) qn_bell_ring(&team->worker[i].start);
    for (int32_t i = 0; i < team->started; i++) pthread_join(team->worker[i].thread, NULL);
    atomic_fetch_sub_explicit(&machine.live, team->threads, memory_order_relaxed);
    qn_free_pages(team, sizeof(qn_team) + (size_t)(team->threads - 1) * sizeof(worker));
}

int32_t qn_team_threads(const qn_team *team)
{
    return team->threads;
}

void qn_team_run(qn_team *team, qn_team_fn *fn, void *ctx)
{
    if (team->threads == 1) {
        fn(ctx, 0, 1);
        return;
    }
    team->fn = fn;
    team->ctx = ctx;
    atomic_store_explicit(&team->left, team->threads - 1, memory_order_relaxed);
    for (int32_t i = 0; i < team->threads - 1; i++) qn_bell_ring(&team->worker[i].start);
    fn(ctx, 0, team->threads);
    for (;;) {
        const uint32_t seen = qn_bell_look(&team->done);
        if (atomic_load_explicit(&team->left, memory_order_acquire) == 0) return;
        qn_bell_wait(&team->done, seen, spins(), -1);
    }
}

int32_t qn_exec_threads(const qn_exec *ex)
{
    return ex == NULL || ex->team == NULL ? 1 : ex->team->threads;
}

void qn_exec_run(const qn_exec *ex, qn_team_fn *fn, void *ctx)
{
    if (ex == NULL || ex->team == NULL)
        fn(ctx, 0, 1);
    else
        qn_team_run(ex->team, fn, ctx);
}

void qn_split(int64_t *begin, int64_t *end, int64_t n, int64_t grain, int32_t i, int32_t k)
{
    QN_ASSERT(n >= 0 && grain >= 1 && i >= 0 && i < k);
    const int64_t units = n / grain + (n % grain != 0); /* equal shares, the first units % k threads get one more */
    const int64_t share = units / k, more = units % k;
    const int64_t first = share * i + qn_min64(i, more), last = first + share + (i < more);
    *begin = first < units ? first * grain : n;
    *end = last < units ? last * grain : n;
}
