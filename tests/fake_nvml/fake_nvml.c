/* A stand-in for NVIDIA's libnvidia-ml.so.1: the part of its interface that manages MIG, over a state in a file.
 *
 * The rules are those that NVIDIA documents (nvml.h, MIG User Guide): memory slices do not overlap, a profile has a
 * largest count, a GPU instance with compute instances or a compute instance with a process is in use. What a board
 * offers is not written here: the tests pass it in (fake_add_gpu, fake_add_profile, fake_add_placement).
 *
 * The state is a file that every process maps and locks (flock) for each call: several processes see one driver.
 * Functions that begin with fake_ play what no program can ask of a driver: processes, resets, rights, faults.
 *
 * Compile with -DDRIVER_AGE=1 for a driver without the versioned functions, 2 for one without explicit placements too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef DRIVER_AGE
#define DRIVER_AGE 0
#endif
#define API __attribute__((visibility("default")))

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7,
       NOT_LOADED = 9, LOST = 15, RESET_REQUIRED = 16, IN_USE = 19, NO_RESOURCES = 23, BAD_VERSION = 25 };
enum { USER = 0, CONFIG = 1, ROOT = 2 };
enum { AT_ONCE = 0, AFTER_RESET = 1, MODE_IN_USE = 2 };
enum { FAIL = 0, KILL_BEFORE = 1, KILL_AFTER = 2, LOSE = 3 };

#define GPUS 8
#define PROFILES 32
#define PLACES 16
#define INSTANCES 16
#define COMPUTES 8
#define SLOTS 32

typedef void *handle;
typedef struct { unsigned start, size; } placement;
typedef struct {
  unsigned enumerator, id, slices, processors, count, places;
  unsigned long long mib;
  char name[96];
  placement place[PLACES];
} profile;
typedef struct { unsigned used, id, generation, profile, slices, pid; long long busy_until_ms; unsigned slot; } compute;
typedef struct { unsigned used, id, generation, profile; placement place; compute ci[COMPUTES]; } instance;
typedef struct { unsigned used, gi, ci; } slot;
typedef struct {
  unsigned supports_mig, mode, pending, activation, architecture, lost, generation, pid, profiles;
  unsigned long long energy_mj;
  unsigned idle_mw, mig_mw, instance_mw;
  long long energy_at_ms;
  char uuid[96], title[96];
  profile profile[PROFILES];
  instance gi[INSTANCES];
  slot slot[SLOTS];
} gpu;
typedef struct {
  unsigned magic, gpus, rights, loaded, fresh_uuids, generation, latency_us;
  unsigned fail_from, fail_times, fail_code, fail_action, only_changes, changing, remnants;
  unsigned long long calls, changes, random;
  long long now_ms;
  gpu gpu[GPUS];
} state;

static state *S;
static int file = -1;
static unsigned sessions;
static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;

/* --- calls: each takes the lock, is counted, and may be made to fail */

static void hold(void) { pthread_mutex_lock(&threads); flock(file, LOCK_EX); }
static void release(void) { flock(file, LOCK_UN); pthread_mutex_unlock(&threads); }

static unsigned fault(int after) {
  unsigned long long n = S->only_changes ? S->changes : S->calls;
  if (!S->fail_from || (S->only_changes && !S->changing)) return OK;
  if (n < S->fail_from || n >= (unsigned long long)S->fail_from + S->fail_times) return OK;
  if (S->fail_action == (after ? KILL_AFTER : KILL_BEFORE)) raise(SIGKILL);
  if (after) return OK;
  if (S->fail_action == LOSE) for (unsigned i = 0; i < S->gpus; i++) S->gpu[i].lost = 1;
  return S->fail_action == FAIL ? S->fail_code : OK;
}

static int begin(int changes) {
  if (!S) return UNINITIALIZED;
  hold();
  S->calls++;
  S->changing = changes;
  S->changes += changes;
  unsigned code = sessions ? fault(0) : UNINITIALIZED;
  if (code) release();
  return code;
}

static int end(int code) { fault(1); release(); return code; }

#define BEGIN int failed = begin(0); if (failed) return failed
#define BEGIN_CHANGE int failed = begin(1); if (failed) return failed
#define RETURN(code) return end(code)
#define NEED(what) do { int missing = (what); if (missing) RETURN(missing); } while (0)

/* Before anything is looked at, for others go on meanwhile. */
static void wait_a_while(void) {
  unsigned us = S->latency_us;
  if (us) { release(); usleep(us); hold(); }
}

static unsigned pick(unsigned n) {
  S->random = S->random * 6364136223846793005ULL + 1442695040888963407ULL;
  return (unsigned)(S->random >> 33) % n;
}

/* --- handles: kind, places in the tables and a generation, so that a handle of something gone is noticed */

static handle make(unsigned kind, unsigned g, unsigned i, unsigned c, unsigned generation) {
  uintptr_t places = (uintptr_t)g << 48 | (uintptr_t)i << 40 | (uintptr_t)c << 32;
  return (handle)((uintptr_t)kind << 56 | places | generation);
}
static unsigned part(handle h, int shift) { return ((uintptr_t)h >> shift) & 0xff; }
static gpu *owner(handle h) { unsigned g = part(h, 48); return g < S->gpus ? &S->gpu[g] : NULL; }

static int as_gpu(handle h, gpu **g) {
  if (part(h, 56) != 1 || !(*g = owner(h)) || (*g)->generation != (unsigned)(uintptr_t)h) return INVALID;
  return (*g)->lost ? LOST : OK;
}
static int as_instance(handle h, gpu **g, instance **i) {
  if (part(h, 56) != 2 || !(*g = owner(h))) return INVALID;
  *i = &(*g)->gi[part(h, 40)];
  if ((*g)->lost) return LOST;
  return (*i)->used && (*i)->generation == (unsigned)(uintptr_t)h ? OK : INVALID;
}
static int as_compute(handle h, unsigned kind, gpu **g, instance **i, compute **c) {
  if (part(h, 56) != kind || !(*g = owner(h))) return INVALID;
  *i = &(*g)->gi[part(h, 40)];
  *c = &(*i)->ci[part(h, 32)];
  if ((*g)->lost) return LOST;
  return (*i)->used && (*c)->used && (*c)->generation == (unsigned)(uintptr_t)h ? OK : INVALID;
}
static handle gpu_handle(gpu *g) { return make(1, g - S->gpu, 0, 0, g->generation); }
static handle instance_handle(gpu *g, instance *i) { return make(2, g - S->gpu, i - g->gi, 0, i->generation); }
static handle compute_handle(unsigned kind, gpu *g, instance *i, compute *c) {
  return make(kind, g - S->gpu, i - g->gi, c - i->ci, c->generation);
}

static int rights(unsigned needed) { return S->rights >= needed ? OK : NO_PERMISSION; }
static int mig_on(gpu *g) { return g->supports_mig && g->mode ? OK : NOT_SUPPORTED; }
static profile *by_id(gpu *g, unsigned id) {
  for (unsigned i = 0; i < g->profiles; i++) if (g->profile[i].id == id) return &g->profile[i];
  return NULL;
}
static unsigned instances_of(gpu *g, unsigned id) {
  unsigned n = 0;
  for (int i = 0; i < INSTANCES; i++) n += g->gi[i].used && g->gi[i].profile == id;
  return n;
}
static unsigned computes_in(instance *i) {
  unsigned n = 0;
  for (int c = 0; c < COMPUTES; c++) n += i->ci[c].used;
  return n;
}
static int is_free(gpu *g, placement p) {
  for (int i = 0; i < INSTANCES; i++) {
    placement q = g->gi[i].place;
    if (g->gi[i].used && p.start < q.start + q.size && q.start < p.start + p.size) return 0;
  }
  return 1;
}
static int is_busy(compute *c) { return c->pid && (c->busy_until_ms < 0 || S->now_ms < c->busy_until_ms); }
static void copy_text(char *to, const char *from, unsigned length) { snprintf(to, length, "%s", from); }

/* --- session and GPUs */

static int map_state(const char *path) {
  int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0 || ftruncate(descriptor, sizeof(state))) return -1;
  state *mapped = mmap(NULL, sizeof(state), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) return -1;
  pthread_mutex_lock(&threads);
  if (S) { munmap(S, sizeof(state)); close(file); }
  S = mapped;
  file = descriptor;
  pthread_mutex_unlock(&threads);
  return 0;
}

API int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  const char *path = getenv("FAKE_NVML_STATE");
  if (!S && (!path || map_state(path))) return NOT_LOADED;
  sessions++;
  int failed = begin(0);
  if (failed) { sessions--; return failed; }
  if (!S->loaded) sessions--;
  RETURN(S->loaded ? OK : NOT_LOADED);
}
API int nvmlShutdown(void) { BEGIN; sessions--; RETURN(OK); }
API const char *nvmlErrorString(int code) { (void)code; return "fake error"; }
API int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  BEGIN; copy_text(text, DRIVER_AGE ? "450.51.06" : "580.65.06", length); RETURN(OK);
}
API int nvmlDeviceGetCount_v2(unsigned *count) { BEGIN; *count = S->gpus; RETURN(OK); }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *h) {
  BEGIN;
  if (index >= S->gpus) RETURN(INVALID);
  if (S->gpu[index].lost) RETURN(LOST);
  *h = gpu_handle(&S->gpu[index]);
  RETURN(OK);
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, handle *h) {
  BEGIN;
  for (unsigned i = 0; i < S->gpus; i++) if (!strcmp(S->gpu[i].uuid, uuid)) {
    if (S->gpu[i].lost) RETURN(LOST);
    *h = gpu_handle(&S->gpu[i]);
    RETURN(OK);
  }
  RETURN(NOT_FOUND);
}
API int nvmlDeviceGetName(handle h, char *text, unsigned length) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); copy_text(text, g->title, length); RETURN(OK);
}
API int nvmlDeviceGetMinorNumber(handle h, unsigned *minor) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); *minor = g - S->gpu; RETURN(OK);
}
#if DRIVER_AGE == 0
API int nvmlDeviceGetArchitecture(handle h, unsigned *architecture) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); *architecture = g->architecture; RETURN(OK);
}
#endif
static long long wall_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}
/* With a power set the counter goes on in real time: since the last reading at what the board draws as it is now. */
static void draw(gpu *g) {
  if (!g->idle_mw) return;
  long long now = wall_ms();
  unsigned long long mw = g->idle_mw + (g->mode ? g->mig_mw : 0);
  for (unsigned i = 0; i < INSTANCES; i++) mw += g->gi[i].used ? g->instance_mw : 0;
  g->energy_mj += mw * (unsigned long long)(now - g->energy_at_ms) / 1000;
  g->energy_at_ms = now;
}
API int nvmlDeviceGetTotalEnergyConsumption(handle h, unsigned long long *mj) {
  BEGIN;
  gpu *g; instance *i; compute *c;
  /* As seen on real boards: a MIG device gives the figure of its whole GPU. */
  if (part(h, 56) == 4) NEED(as_compute(h, 4, &g, &i, &c)); else NEED(as_gpu(h, &g));
  draw(g);
  if (!g->energy_mj) RETURN(NOT_SUPPORTED);
  *mj = g->energy_mj;
  RETURN(OK);
}

static unsigned long long mix(const char *text, unsigned long long h) {
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211ULL;
  return h;
}
static void mig_uuid(gpu *g, instance *i, compute *c, char *text, unsigned length) {
  char name[160];
  snprintf(name, sizeof name, "%s/%u/%u/%u", g->uuid, i->id, c->id, S->fresh_uuids ? c->generation : 0);
  unsigned long long a = mix(name, 14695981039346656037ULL), b = mix(name, a);
  snprintf(text, length, "MIG-%08llx-%04llx-5%03llx-8%03llx-%012llx", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 52,
           b & 0xffffffffffffULL);
}
API int nvmlDeviceGetUUID(handle h, char *text, unsigned length) {
  BEGIN;
  gpu *g; instance *i; compute *c;
  if (part(h, 56) == 4) { NEED(as_compute(h, 4, &g, &i, &c)); mig_uuid(g, i, c, text, length); RETURN(OK); }
  NEED(as_gpu(h, &g));
  copy_text(text, g->uuid, length);
  RETURN(OK);
}

/* --- mode */

static void wipe(gpu *g) { memset(g->gi, 0, sizeof g->gi); memset(g->slot, 0, sizeof g->slot); g->pid = 0; }

API int nvmlDeviceGetMigMode(handle h, unsigned *current, unsigned *pending) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g));
  if (!g->supports_mig) RETURN(NOT_SUPPORTED);
  *current = g->mode; *pending = g->pending;
  RETURN(OK);
}
API int nvmlDeviceSetMigMode(handle h, unsigned mode, unsigned *status) {
  BEGIN_CHANGE; gpu *g; NEED(as_gpu(h, &g));
  if (!g->supports_mig) RETURN(NOT_SUPPORTED);
  NEED(rights(ROOT));
  if (mode > 1) RETURN(INVALID);
  g->pending = mode;
  *status = OK;
  if (g->mode == mode) RETURN(OK);
  int left = 0;
  for (int i = 0; i < INSTANCES; i++) left |= g->gi[i].used;
  if (g->activation == MODE_IN_USE || g->pid || left) { *status = IN_USE; RETURN(OK); }
  if (g->activation == AFTER_RESET) { *status = RESET_REQUIRED; RETURN(OK); }
  g->mode = mode;
  g->generation = ++S->generation;
  RETURN(OK);
}

/* --- tables */

static int describe(handle h, unsigned enumerator, profile **found) {
  gpu *g;
  int failed = as_gpu(h, &g);
  if (failed) return failed;
  if (!g->supports_mig) return NOT_SUPPORTED;
  unsigned last = 0;
  for (unsigned i = 0; i < g->profiles; i++) {
    if (g->profile[i].enumerator == enumerator) { *found = &g->profile[i]; return OK; }
    if (g->profile[i].enumerator > last) last = g->profile[i].enumerator;
  }
  return enumerator > last && enumerator >= 0x12 ? INVALID : NOT_SUPPORTED;
}
static void fill_profile(unsigned *to, profile *p) {
  unsigned values[10] = {p->id, 0, p->slices, p->count, p->processors, p->slices, 0, 0, 0, 0};
  memcpy(to, values, sizeof values);
}
typedef struct { unsigned field[10]; unsigned long long mib; } profile_info;
typedef struct { unsigned version, field[10]; unsigned long long mib; char name[96]; } profile_info_v2;

API int nvmlDeviceGetGpuInstanceProfileInfo(handle h, unsigned enumerator, profile_info *info) {
  BEGIN; profile *p; NEED(describe(h, enumerator, &p));
  fill_profile(info->field, p); info->mib = p->mib;
  RETURN(OK);
}
#if DRIVER_AGE == 0
API int nvmlDeviceGetGpuInstanceProfileInfoV(handle h, unsigned enumerator, profile_info_v2 *info) {
  BEGIN;
  if (info->version != (sizeof *info | 2u << 24)) RETURN(BAD_VERSION);
  profile *p; NEED(describe(h, enumerator, &p));
  fill_profile(info->field, p); info->mib = p->mib; copy_text(info->name, p->name, sizeof info->name);
  RETURN(OK);
}
#endif

static int places(handle h, unsigned id, placement *to, unsigned *count) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g));
  NEED(rights(CONFIG));
  profile *p = by_id(g, id);
  if (!g->supports_mig || !p) RETURN(NOT_SUPPORTED);
  if (to && *count < p->places) { *count = p->places; RETURN(TOO_SMALL); }
  if (to) memcpy(to, p->place, p->places * sizeof *to);
  *count = p->places;
  RETURN(OK);
}
API int nvmlDeviceGetGpuInstancePossiblePlacements(handle h, unsigned id, placement *to, unsigned *count) {
  return places(h, id, to, count);
}
#if DRIVER_AGE == 0
API int nvmlDeviceGetGpuInstancePossiblePlacements_v2(handle h, unsigned id, placement *to, unsigned *count) {
  return places(h, id, to, count);
}
#endif
API int nvmlDeviceGetGpuInstanceRemainingCapacity(handle h, unsigned id, unsigned *count) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g)); NEED(rights(CONFIG));
  profile *p = by_id(g, id);
  if (!p) RETURN(NOT_SUPPORTED);
  unsigned left = p->count - instances_of(g, id), room = 0;
  for (unsigned k = 0; k < p->places; k++) room += is_free(g, p->place[k]);
  *count = room < left ? room : left;
  RETURN(OK);
}

/* --- GPU instances */

static int create(gpu *g, profile *p, placement place, handle *out) {
  if (instances_of(g, p->id) >= p->count || !is_free(g, place)) return NO_RESOURCES;
  int row = 0;
  while (g->gi[row].used) row++;
  unsigned id, taken;
  do {
    /* Numbers are no function of the place and are given again; twice as many as there can be leaves room. */
    id = 1 + pick(2 * INSTANCES);
    taken = 0;
    for (int i = 0; i < INSTANCES; i++) taken |= g->gi[i].used && g->gi[i].id == id;
  } while (taken);
  g->gi[row] = (instance){.used = 1, .id = id, .generation = ++S->generation, .profile = p->id, .place = place};
  *out = instance_handle(g, &g->gi[row]);
  return OK;
}
#if DRIVER_AGE < 2
API int nvmlDeviceCreateGpuInstanceWithPlacement(handle h, unsigned id, const placement *place, handle *out) {
  BEGIN_CHANGE; wait_a_while(); gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g)); NEED(rights(CONFIG));
  profile *p = by_id(g, id);
  if (!p) RETURN(INVALID);
  for (unsigned k = 0; k < p->places; k++)
    if (p->place[k].start == place->start && p->place[k].size == place->size) RETURN(create(g, p, *place, out));
  RETURN(INVALID);
}
#endif
API int nvmlDeviceCreateGpuInstance(handle h, unsigned id, handle *out) {
  BEGIN_CHANGE; wait_a_while(); gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g)); NEED(rights(CONFIG));
  profile *p = by_id(g, id);
  if (!p) RETURN(INVALID);
  for (unsigned k = 0; k < p->places; k++) if (is_free(g, p->place[k])) RETURN(create(g, p, p->place[k], out));
  RETURN(NO_RESOURCES);
}
API int nvmlDeviceGetGpuInstances(handle h, unsigned id, handle *to, unsigned *count) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g)); NEED(rights(CONFIG));
  if (!by_id(g, id)) RETURN(INVALID);
  unsigned n = 0;
  for (int i = 0; i < INSTANCES; i++)
    if (g->gi[i].used && g->gi[i].profile == id) to[n++] = instance_handle(g, &g->gi[i]);
  *count = n;
  RETURN(OK);
}
API int nvmlDeviceGetGpuInstanceById(handle h, unsigned id, handle *out) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g)); NEED(rights(CONFIG));
  for (int i = 0; i < INSTANCES; i++)
    if (g->gi[i].used && g->gi[i].id == id) { *out = instance_handle(g, &g->gi[i]); RETURN(OK); }
  RETURN(NOT_FOUND);
}
typedef struct { handle device; unsigned id, profile; placement place; } instance_info;
API int nvmlGpuInstanceGetInfo(handle h, instance_info *info) {
  BEGIN; gpu *g; instance *i; NEED(as_instance(h, &g, &i)); NEED(rights(CONFIG));
  *info = (instance_info){gpu_handle(g), i->id, i->profile, i->place};
  RETURN(OK);
}
API int nvmlGpuInstanceDestroy(handle h) {
  BEGIN_CHANGE; wait_a_while(); gpu *g; instance *i; NEED(as_instance(h, &g, &i)); NEED(rights(CONFIG));
  if (computes_in(i)) RETURN(IN_USE);
  if (!S->remnants) i->used = 0;
  RETURN(OK);
}

/* --- compute instances: profile ids equal enumerators here; 7 is a special one of a single slice */

static unsigned compute_slices(unsigned enumerator) {
  static const unsigned slices[9] = {1, 2, 3, 4, 7, 8, 6, 1, 7};
  return enumerator < 9 ? slices[enumerator] : 0;
}
static int describe_compute(handle h, unsigned enumerator, unsigned engine, unsigned *slices, unsigned *count) {
  gpu *g; instance *i;
  int failed = as_instance(h, &g, &i);
  if (failed) return failed;
  if (enumerator > 8 || engine) return INVALID;
  unsigned whole = by_id(g, i->profile)->slices;
  *slices = compute_slices(enumerator);
  *count = whole / *slices;
  return enumerator == 8 || !*count ? NOT_SUPPORTED : rights(CONFIG);
}
typedef struct { unsigned field[9]; } compute_info;
typedef struct { unsigned version, field[9]; char name[96]; } compute_info_v2;
API int nvmlGpuInstanceGetComputeInstanceProfileInfo(handle h, unsigned number, unsigned engine, compute_info *info) {
  BEGIN; unsigned slices, count; NEED(describe_compute(h, number, engine, &slices, &count));
  *info = (compute_info){{number, slices, count}};
  RETURN(OK);
}
#if DRIVER_AGE == 0
API int nvmlGpuInstanceGetComputeInstanceProfileInfoV(handle h, unsigned number, unsigned engine,
                                                      compute_info_v2 *info) {
  BEGIN;
  if (info->version != (sizeof *info | 2u << 24)) RETURN(BAD_VERSION);
  unsigned slices, count; NEED(describe_compute(h, number, engine, &slices, &count));
  info->field[0] = number; info->field[1] = slices; info->field[2] = count;
  snprintf(info->name, sizeof info->name, "%uc", slices);
  RETURN(OK);
}
#endif
API int nvmlGpuInstanceCreateComputeInstance(handle h, unsigned id, handle *out) {
  BEGIN_CHANGE; gpu *g; instance *i; NEED(as_instance(h, &g, &i)); NEED(rights(CONFIG));
  unsigned slices = compute_slices(id), taken = 0, row = 0, free_slot = 0;
  if (!slices || slices > by_id(g, i->profile)->slices) RETURN(INVALID);
  for (int c = 0; c < COMPUTES; c++) taken += i->ci[c].used ? i->ci[c].slices : 0;
  if (taken + slices > by_id(g, i->profile)->slices) RETURN(NO_RESOURCES);
  while (i->ci[row].used) row++;
  /* Not the first free slot, so that there are holes in the list of devices. */
  do free_slot = pick(SLOTS); while (g->slot[free_slot].used);
  i->ci[row] = (compute){.used = 1, .id = row, .profile = id, .slices = slices, .slot = free_slot};
  i->ci[row].generation = ++S->generation;
  g->slot[free_slot] = (slot){1, i - g->gi, row};
  *out = compute_handle(3, g, i, &i->ci[row]);
  RETURN(OK);
}
API int nvmlComputeInstanceDestroy(handle h) {
  BEGIN_CHANGE; gpu *g; instance *i; compute *c; NEED(as_compute(h, 3, &g, &i, &c)); NEED(rights(CONFIG));
  if (is_busy(c)) RETURN(IN_USE);
  g->slot[c->slot].used = 0;
  c->used = 0;
  RETURN(OK);
}
API int nvmlGpuInstanceGetComputeInstances(handle h, unsigned id, handle *to, unsigned *count) {
  BEGIN; gpu *g; instance *i; NEED(as_instance(h, &g, &i)); NEED(rights(CONFIG));
  unsigned n = 0;
  for (int c = 0; c < COMPUTES; c++)
    if (i->ci[c].used && i->ci[c].profile == id) to[n++] = compute_handle(3, g, i, &i->ci[c]);
  *count = n;
  RETURN(OK);
}
API int nvmlGpuInstanceGetComputeInstanceById(handle h, unsigned id, handle *out) {
  BEGIN; gpu *g; instance *i; NEED(as_instance(h, &g, &i)); NEED(rights(CONFIG));
  if (id >= COMPUTES || !i->ci[id].used) RETURN(NOT_FOUND);
  *out = compute_handle(3, g, i, &i->ci[id]);
  RETURN(OK);
}
typedef struct { handle device, gpu_instance; unsigned id, profile; placement place; } compute_instance_info;
static int info_of(handle h, compute_instance_info *info, size_t length) {
  BEGIN; gpu *g; instance *i; compute *c; NEED(as_compute(h, 3, &g, &i, &c)); NEED(rights(CONFIG));
  compute_instance_info whole = {compute_handle(4, g, i, c), instance_handle(g, i), c->id, c->profile, {0, c->slices}};
  memcpy(info, &whole, length);
  RETURN(OK);
}
API int nvmlComputeInstanceGetInfo(handle h, void *info) {
  return info_of(h, info, sizeof(compute_instance_info) - sizeof(placement));
}
#if DRIVER_AGE == 0
API int nvmlComputeInstanceGetInfo_v2(handle h, void *info) { return info_of(h, info, sizeof(compute_instance_info)); }
#endif

/* --- MIG devices, for every user */

API int nvmlDeviceGetMaxMigDeviceCount(handle h, unsigned *count) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); *count = g->supports_mig && g->mode ? SLOTS : 0; RETURN(OK);
}
API int nvmlDeviceGetMigDeviceHandleByIndex(handle h, unsigned index, handle *out) {
  BEGIN; gpu *g; NEED(as_gpu(h, &g)); NEED(mig_on(g));
  if (index >= SLOTS) RETURN(INVALID);
  slot *s = &g->slot[index];
  if (!s->used) RETURN(NOT_FOUND);
  *out = compute_handle(4, g, &g->gi[s->gi], &g->gi[s->gi].ci[s->ci]);
  RETURN(OK);
}
API int nvmlDeviceIsMigDeviceHandle(handle h, unsigned *is) { BEGIN; *is = part(h, 56) == 4; RETURN(OK); }
API int nvmlDeviceGetGpuInstanceId(handle h, unsigned *id) {
  BEGIN; gpu *g; instance *i; compute *c; NEED(as_compute(h, 4, &g, &i, &c)); *id = i->id; RETURN(OK);
}
API int nvmlDeviceGetComputeInstanceId(handle h, unsigned *id) {
  BEGIN; gpu *g; instance *i; compute *c; NEED(as_compute(h, 4, &g, &i, &c)); *id = c->id; RETURN(OK);
}
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle h, handle *out) {
  BEGIN; gpu *g; instance *i; compute *c; NEED(as_compute(h, 4, &g, &i, &c)); *out = gpu_handle(g); RETURN(OK);
}
typedef struct { unsigned processors, engines[5], gi_slices, ci_slices; unsigned long long mib; } attributes;
API int nvmlDeviceGetAttributes_v2(handle h, attributes *a) {
  BEGIN; gpu *g; instance *i; compute *c; NEED(as_compute(h, 4, &g, &i, &c));
  profile *p = by_id(g, i->profile);
  *a = (attributes){.processors = p->processors, .gi_slices = p->slices, .ci_slices = c->slices, .mib = p->mib};
  RETURN(OK);
}
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process;
static int processes(handle h, unsigned *count, process *to) {
  BEGIN;
  gpu *g; instance *i; compute *c;
  unsigned pid;
  if (part(h, 56) == 4) { NEED(as_compute(h, 4, &g, &i, &c)); pid = is_busy(c) ? c->pid : 0; }
  else { NEED(as_gpu(h, &g)); pid = g->pid; }
  unsigned room = *count;
  *count = pid ? 1 : 0;
  if (pid && (!to || !room)) RETURN(TOO_SMALL);
  if (pid) *to = (process){pid, 0, 0, 0};
  RETURN(OK);
}
API int nvmlDeviceGetComputeRunningProcesses_v2(handle h, unsigned *count, process *to) {
  return processes(h, count, to);
}
#if DRIVER_AGE == 0
API int nvmlDeviceGetComputeRunningProcesses_v3(handle h, unsigned *count, process *to) {
  return processes(h, count, to);
}
#endif

/* --- what the tests play */

static void locked_set(unsigned *field, unsigned value) { hold(); *field = value; release(); }

API int fake_open(const char *path) { return map_state(path); }
API void fake_reset(unsigned long long seed, unsigned fresh_uuids) {
  hold();
  memset(S, 0, sizeof *S);
  S->rights = ROOT; S->loaded = 1; S->random = seed; S->fresh_uuids = fresh_uuids;
  release();
}
API int fake_add_gpu(const char *uuid, const char *title, unsigned architecture, unsigned supports_mig, unsigned mode) {
  hold();
  gpu *g = &S->gpu[S->gpus++];
  *g = (gpu){.supports_mig = supports_mig, .mode = mode, .pending = mode, .architecture = architecture};
  g->generation = ++S->generation;
  copy_text(g->uuid, uuid, sizeof g->uuid);
  copy_text(g->title, title, sizeof g->title);
  int index = S->gpus - 1;
  release();
  return index;
}
API void fake_add_profile(unsigned index, unsigned enumerator, unsigned id, const char *name, unsigned slices,
                          unsigned processors, unsigned count, unsigned long long mib) {
  hold();
  gpu *g = &S->gpu[index];
  profile *p = &g->profile[g->profiles++];
  *p = (profile){.enumerator = enumerator, .id = id, .slices = slices, .count = count, .mib = mib};
  p->processors = processors;
  copy_text(p->name, name, sizeof p->name);
  release();
}
API void fake_add_placement(unsigned index, unsigned id, unsigned start, unsigned size) {
  hold();
  profile *p = by_id(&S->gpu[index], id);
  p->place[p->places++] = (placement){start, size};
  release();
}
API void fake_set_rights(unsigned rights) { locked_set(&S->rights, rights); }
API void fake_set_loaded(unsigned loaded) { locked_set(&S->loaded, loaded); }
API void fake_set_latency(unsigned us) { locked_set(&S->latency_us, us); }
API void fake_set_remnants(unsigned on) { locked_set(&S->remnants, on); }
API void fake_set_activation(unsigned index, unsigned how) { locked_set(&S->gpu[index].activation, how); }
API void fake_set_lost(unsigned index, unsigned lost) { locked_set(&S->gpu[index].lost, lost); }
API void fake_set_gpu_process(unsigned index, unsigned pid) { locked_set(&S->gpu[index].pid, pid); }
API void fake_set_energy(unsigned index, unsigned long long mj) { hold(); S->gpu[index].energy_mj = mj; release(); }
API void fake_set_power(unsigned index, unsigned idle_mw, unsigned mig_mw, unsigned instance_mw) {
  hold();
  gpu *g = &S->gpu[index];
  g->idle_mw = idle_mw;
  g->mig_mw = mig_mw;
  g->instance_mw = instance_mw;
  g->energy_at_ms = wall_ms();
  release();
}
API void fake_reset_gpu(unsigned index) {
  hold();
  gpu *g = &S->gpu[index];
  g->mode = g->pending;
  g->lost = 0;
  g->generation = ++S->generation;
  wipe(g);
  release();
}
/* A process with number pid uses an instance for so many ms of the fake's own clock, for ever if negative. */
API int fake_use(unsigned index, unsigned instance_id, unsigned pid, long long ms) {
  hold();
  int found = 0;
  for (int i = 0; i < INSTANCES; i++) {
    instance *each = &S->gpu[index].gi[i];
    for (int c = 0; c < COMPUTES && each->used && each->id == instance_id; c++) if (each->ci[c].used) {
      each->ci[c].pid = pid;
      each->ci[c].busy_until_ms = ms < 0 ? -1 : S->now_ms + ms;
      found = 1;
    }
  }
  release();
  return found;
}
/* Somebody else creates a GPU instance and stops there. */
API int fake_create(unsigned index, unsigned id, unsigned start, unsigned size) {
  handle unused;
  hold();
  int code = create(&S->gpu[index], by_id(&S->gpu[index], id), (placement){start, size}, &unused);
  release();
  return code;
}
API void fake_advance(long long ms) { hold(); S->now_ms += ms; release(); }
API unsigned long long fake_calls(void) { hold(); unsigned long long n = S->calls; release(); return n; }
API unsigned long long fake_changes(void) { hold(); unsigned long long n = S->changes; release(); return n; }
/* From now on the first-th call and the times - 1 after it fail, kill their process, or lose every GPU; only calls that
 * change something are counted and concerned if wished. */
API void fake_fail(unsigned first, unsigned times, unsigned code, unsigned action, unsigned only_changes) {
  hold();
  S->calls = S->changes = 0;
  S->only_changes = only_changes;
  S->fail_from = first; S->fail_times = times; S->fail_code = code; S->fail_action = action;
  release();
}
