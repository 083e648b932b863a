/* A fake libnvidia-ml.so.1: device state in a shared file, so that locks outlive processes.
 * The behaviour and its sources are described in docs/fake-nvml.md. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

_Static_assert(D_IDLE_HIDES < D_FAULTS, "words of a device reach into its faults");
_Static_assert(D_FAULTS + F_COUNT <= D_SAID_BY, "faults reach into what is said");
_Static_assert(D_APP_BOOSTS < D_WORDS, "words of a device reach into the next one");

#define EXPORT __attribute__((visibility("default")))

enum {
  SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
  NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15
};

enum {
  REASON_IDLE = 0x1, REASON_SETTING = 0x2, REASON_POWER_CAP = 0x4
};

typedef _Atomic uint64_t word;
typedef word *device;

static word *state;
static int references;
static unsigned visible[MAX_DEVICES], visible_count;
static uint64_t born[MAX_DEVICES]; /* D_BORN when this process initialised NVML */

static word *device_at(unsigned index) { return state + H_WORDS + (size_t)index * D_WORDS; }
static word *processes(void) { return device_at(MAX_DEVICES); }
static word *ring(void) { return processes() + MAX_PROCESSES; }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_us(uint64_t us) {
  struct timespec t = {(time_t)(us / 1000000u), (long)(us % 1000000u) * 1000};
  while (us && nanosleep(&t, &t) == -1 && errno == EINTR) {
  }
}

static int map_state(void) {
  const char *path = getenv("FAKE_NVML_STATE");
  if (state) return 1;
  if (!path) return 0;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return 0;
  size_t size = 8u * (H_WORDS + MAX_DEVICES * D_WORDS + MAX_PROCESSES + 2 * RING);
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) return 0;
  state = memory;
  return state[H_MAGIC] == 0x564f4c54u;
}

static void write_uuid(unsigned index, char *text, size_t length) {
  snprintf(text, length, "GPU-fa4e0000-0000-0000-0000-%012u", index);
}

/* Whether a comma-separated list names a device by its UUID or by its index on the node. */
static int named(const char *list, unsigned index) {
  char uuid[64], number[16];
  write_uuid(index, uuid, sizeof uuid);
  snprintf(number, sizeof number, "%u", index);
  for (const char *at = list; *at;) {
    size_t length = strcspn(at, ",");
    if ((length == strlen(uuid) && !strncmp(at, uuid, length)) ||
        (length == strlen(number) && !strncmp(at, number, length)))
      return 1;
    at += length + (at[length] == ',');
  }
  return 0;
}

/* What the container runtime makes of NVIDIA_VISIBLE_DEVICES: of the node's devices this process
 * finds those that are named, counted from 0 in the node's order, and no other by any name. */
static void look_around(void) {
  const char *list = getenv("NVIDIA_VISIBLE_DEVICES");
  int all = !list || !*list || !strcmp(list, "all");
  visible_count = 0;
  for (unsigned i = 0; i < state[H_DEVICES]; i++) born[i] = device_at(i)[D_BORN];
  for (unsigned i = 0; i < state[H_DEVICES]; i++)
    if ((all || named(list, i)) && !device_at(i)[D_GONE]) visible[visible_count++] = i;
}

/* Settings of devices without persistence mode vanish once no process holds NVML. */
static void forget_if_unheld(void) {
  word *table = processes();
  for (int i = 0; i < MAX_PROCESSES; i++) {
    uint64_t pid = table[i];
    if (pid && kill((pid_t)pid, 0) == -1 && errno == ESRCH)
      atomic_compare_exchange_strong(&table[i], &pid, 0);
    if (table[i]) return;
  }
  for (unsigned i = 0; i < state[H_DEVICES]; i++) {
    device d = device_at(i);
    if (!d[D_PERSISTENCE] && atomic_exchange(&d[D_LOCK], 0)) d[D_UNLOCKED_NS] = now_ns();
    if (!d[D_PERSISTENCE]) d[D_CAP_MW] = d[D_CAP_DEFAULT_MW];
    if (!d[D_PERSISTENCE]) d[D_APP_MHZ] = d[D_APP_DEFAULT_MHZ];
  }
}

static void hold(int join) {
  word *table = processes();
  uint64_t mine = (uint64_t)getpid();
  for (int i = 0; i < MAX_PROCESSES; i++) {
    uint64_t expected = join ? 0 : mine;
    if (atomic_compare_exchange_strong(&table[i], &expected, join ? mine : 0)) return;
  }
}

/* Take one fault for `target`, if one is due. Returns its kind, and its argument through `arg`. */
static int take_fault(device d, int target, uint32_t *arg) {
  word *slot = &d[D_FAULTS + target];
  uint64_t seen = *slot;
  while (seen) {
    uint32_t left = (uint32_t)seen;
    uint64_t next = left == UINT32_MAX ? seen : left > 1 ? seen - 1 : 0;
    if (atomic_compare_exchange_weak(slot, &seen, next)) {
      *arg = (uint32_t)(seen >> 32) & 0xffffffu;
      return (int)(seen >> 56);
    }
  }
  return K_NONE;
}

static unsigned index_of(device d) { return (unsigned)((d - device_at(0)) / D_WORDS); }

/* A device that fell off the bus and came back is another one to whoever initialised NVML before. */
static int is_lost(device d) { return d[D_LOST] || d[D_GONE] || d[D_BORN] != born[index_of(d)]; }

/* What precedes every device call. Returns -1 to go on, -2 to do nothing and report success. */
static int enter(device d, int target, uint64_t us) {
  if (!references) return UNINITIALIZED;
  if (!d || d < device_at(0) || d >= device_at((unsigned)state[H_DEVICES])) return INVALID_ARGUMENT;
  if (is_lost(d)) return GPU_IS_LOST;
  uint32_t argument = 0;
  switch (take_fault(d, target, &argument)) {
    case K_CODE: return (int)argument;
    case K_SILENT: sleep_us(us); return -2;
    case K_HANG:
      if (!argument) for (;;) pause();
      sleep_us((uint64_t)argument * 1000u);
      break;
    default: break;
  }
  sleep_us(us);
  return is_lost(d) ? GPU_IS_LOST : -1;
}

static int has_sys_admin(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data)) return 0;
  return (data[0].effective >> CAP_SYS_ADMIN) & 1;
}

static int privileged(void) {
  if ((uint64_t)geteuid() != state[H_PRIVILEGED_UID]) return 0;
  return !state[H_NEEDS_SYS_ADMIN] || has_sys_admin();
}

typedef struct {
  uint64_t ns, uj, mw, mhz;
} said;

/* What whoever computes on a device said last. A writer that was killed half-way leaves its turn odd
 * for ever, so that nobody waits for it; what it leaves behind then draws the power of idling. */
static said what_is_said(device d) {
  said s;
  for (int tries = 0; tries < 1000; tries++) {
    uint64_t turn = d[D_SAID_TURN];
    s.ns = d[D_SAID_NS], s.uj = d[D_SAID_UJ], s.mw = d[D_SAID_MW], s.mhz = d[D_SAID_MHZ];
    if (!(turn & 1) && turn == d[D_SAID_TURN]) break;
  }
  if (kill((pid_t)d[D_SAID_BY], 0) == -1 && errno == ESRCH) s.mw = d[D_IDLE_MW], s.mhz = 0;
  return s;
}

static uint64_t power_mw_at(device d, uint64_t mhz) {
  if (d[D_SAID_BY]) return what_is_said(d).mw;
  if (!d[D_BUSY]) return d[D_IDLE_MW];
  double share = (double)mhz / (double)d[D_LAST_MHZ];
  return d[D_IDLE_MW] + (uint64_t)((double)(d[D_FULL_MW] - d[D_IDLE_MW]) * share * share);
}

/* The clock that runs, and why it is not the fastest. The power limit wins over a lock, and a lock
 * over the application clock. */
static uint64_t clock_mhz(device d, uint64_t *reasons) {
  uint64_t lock = d[D_LOCK], why = 0;
  uint64_t mhz = d[D_BUSY] ? d[D_LAST_MHZ] : d[D_IDLE_MHZ];
  uint64_t since = now_ns() - d[D_CHANGED_NS];
  if (lock && !d[D_BUSY] && d[D_IDLE_HIDES]) {
    why |= REASON_IDLE;
  } else if (lock) {
    uint64_t low = lock >> 32, high = (lock >> 16) & 0xffff;
    mhz = d[D_BUSY] ? high : low;
    why |= REASON_SETTING;
  } else {
    uint64_t app = d[D_APP_MHZ];
    if (!d[D_BUSY]) why |= REASON_IDLE;
    if (app && app < d[D_LAST_MHZ]) {
      why |= REASON_SETTING;
      if (mhz > app && !(d[D_APP_BOOSTS] && app == d[D_APP_DEFAULT_MHZ])) mhz = app;
    }
  }
  if (since < d[D_SETTLE_US] * 1000u && lock && (d[D_BUSY] || !d[D_IDLE_HIDES])) mhz = lock & 0xffff;
  if (d[D_SAID_BY]) {
    uint64_t limited = what_is_said(d).mhz;
    if (limited && limited < mhz) mhz = limited, why |= REASON_POWER_CAP;
  } else {
    while (mhz > d[D_FIRST_MHZ] && power_mw_at(d, mhz) > d[D_CAP_MW]) {
      mhz -= d[D_STEP_MHZ];
      why |= REASON_POWER_CAP;
    }
  }
  if (reasons) *reasons = why;
  return mhz;
}

/* The counter at the last tick, from what was said; it never falls, though power may be told late. */
static void follow_energy(device d, uint64_t tick) {
  said s = what_is_said(d);
  double pace = state[H_TIME_PPM] ? (double)state[H_TIME_PPM] * 1e-6 : 1.0;
  int64_t since = (int64_t)(now_ns() / tick * tick) - (int64_t)s.ns;
  double uj = (double)s.uj + (double)s.mw * (double)since * 1e-6 * pace;
  uint64_t mj = uj > 0.0 ? (uint64_t)(uj * 1e-3) : 0, seen = d[D_ENERGY_MJ];
  while (mj > seen && !atomic_compare_exchange_weak(&d[D_ENERGY_MJ], &seen, mj)) {
  }
}

static void count_energy(device d) {
  uint64_t now = now_ns(), from = d[D_ENERGY_NS], tick = d[D_TICK_MS] * 1000000u;
  if (d[D_SAID_BY]) {
    follow_energy(d, tick);
    return;
  }
  if (now < from + tick) return;
  uint64_t to = from + (now - from) / tick * tick;
  uint64_t mw = power_mw_at(d, clock_mhz(d, NULL));
  if (atomic_compare_exchange_strong(&d[D_ENERGY_NS], &from, to))
    atomic_fetch_add(&d[D_ENERGY_MJ], (uint64_t)((double)mw * (double)(to - from) * 1e-9));
}

static int supported(device d, unsigned mhz) {
  return mhz >= d[D_FIRST_MHZ] && mhz <= d[D_LAST_MHZ] &&
         (mhz - d[D_FIRST_MHZ]) % d[D_STEP_MHZ] == 0;
}

static int copy_text(char *to, unsigned length, const char *from) {
  if (!to) return INVALID_ARGUMENT;
  if (strlen(from) + 1 > length) return INSUFFICIENT_SIZE;
  strcpy(to, from);
  return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (!map_state()) return DRIVER_NOT_LOADED;
  atomic_fetch_add(&state[H_INIT_CALLS], 1);
  while (state[H_INIT_MS] == UINT32_MAX) pause();
  sleep_us(1000u * state[H_INIT_MS]);
  if (!state[H_DRIVER_LOADED]) return DRIVER_NOT_LOADED;
  if (!references) {
    look_around();
    if (state[H_DEVICES] && !visible_count) return DRIVER_NOT_LOADED;
  }
  if (!references++) {
    forget_if_unheld();
    hold(1);
  }
  return SUCCESS;
}
EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
  if (!references) return UNINITIALIZED;
  if (!--references) {
    hold(0);
    forget_if_unheld();
  }
  return SUCCESS;
}

EXPORT const char *nvmlErrorString(int code) {
  static _Thread_local char text[32];
  snprintf(text, sizeof text, "fake NVML error %d", code);
  return text;
}

EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  return references ? copy_text(text, length, "999.0.fake") : UNINITIALIZED;
}
EXPORT int nvmlSystemGetNVMLVersion(char *text, unsigned length) {
  return references ? copy_text(text, length, "12.999.0.fake") : UNINITIALIZED;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
  if (!references) return UNINITIALIZED;
  if (!count) return INVALID_ARGUMENT;
  *count = visible_count;
  return SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
  if (!references) return UNINITIALIZED;
  if (!out || index >= visible_count) return INVALID_ARGUMENT;
  device d = device_at(visible[index]);
  int code = enter(d, F_HANDLE, 0);
  if (code > 0) return code;
  *out = d;
  return SUCCESS;
}

EXPORT int nvmlDeviceGetUUID(device d, char *text, unsigned length) {
  char uuid[64];
  int code = enter(d, F_HANDLE, 0);
  if (code > 0) return code;
  write_uuid(index_of(d), uuid, sizeof uuid);
  return copy_text(text, length, uuid);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
  if (!references) return UNINITIALIZED;
  if (!uuid || !out) return INVALID_ARGUMENT;
  for (unsigned i = 0; i < visible_count; i++) {
    char mine[64];
    write_uuid(visible[i], mine, sizeof mine);
    if (device_at(visible[i])[D_GONE]) continue;
    if (!strcmp(uuid, mine)) return nvmlDeviceGetHandleByIndex_v2(i, out);
  }
  return NOT_FOUND;
}

EXPORT int nvmlDeviceGetName(device d, char *text, unsigned length) {
  int code = enter(d, F_HANDLE, 0);
  return code > 0 ? code : copy_text(text, length, "Fake A100-SXM4-80GB");
}

EXPORT int nvmlDeviceGetPersistenceMode(device d, unsigned *mode) {
  int code = enter(d, F_PERSISTENCE, 0);
  if (code > 0) return code;
  if (!mode) return INVALID_ARGUMENT;
  *mode = (unsigned)d[D_PERSISTENCE];
  return SUCCESS;
}

EXPORT int nvmlDeviceGetMigMode(device d, unsigned *current, unsigned *pending) {
  int code = enter(d, F_MIG, 0);
  if (code > 0) return code;
  if (!current || !pending) return INVALID_ARGUMENT;
  *current = *pending = (unsigned)d[D_MIG];
  return SUCCESS;
}

EXPORT int nvmlDeviceGetClockInfo(device d, int type, unsigned *mhz) {
  int code = enter(d, F_CLOCK, references && d ? d[D_QUERY_US] : 0);
  if (code > 0) return code;
  if (!mhz || type < 0 || type > 3) return INVALID_ARGUMENT;
  *mhz = (unsigned)(type == 2 ? d[D_MEMORY_MHZ] : clock_mhz(d, NULL));
  return SUCCESS;
}

EXPORT int nvmlDeviceGetMaxClockInfo(device d, int type, unsigned *mhz) {
  int code = enter(d, F_TABLE, 0);
  if (code > 0) return code;
  if (!mhz || type < 0 || type > 3) return INVALID_ARGUMENT;
  *mhz = (unsigned)(type == 2 ? d[D_MEMORY_MHZ] : d[D_LAST_MHZ]);
  return SUCCESS;
}

EXPORT int nvmlDeviceGetSupportedMemoryClocks(device d, unsigned *count, unsigned *clocks) {
  int code = enter(d, F_TABLE, 0);
  if (code > 0) return code;
  if (!count) return INVALID_ARGUMENT;
  unsigned room = *count;
  *count = 1;
  if (room < 1) return INSUFFICIENT_SIZE;
  if (!clocks) return INVALID_ARGUMENT;
  clocks[0] = (unsigned)d[D_MEMORY_MHZ];
  return SUCCESS;
}

EXPORT int nvmlDeviceGetSupportedGraphicsClocks(device d, unsigned memory, unsigned *count,
                                                unsigned *clocks) {
  int code = enter(d, F_TABLE, 0);
  if (code > 0) return code;
  if (!count) return INVALID_ARGUMENT;
  if (memory != d[D_MEMORY_MHZ]) return NOT_FOUND;
  unsigned room = *count, n = (unsigned)((d[D_LAST_MHZ] - d[D_FIRST_MHZ]) / d[D_STEP_MHZ]) + 1;
  *count = n;
  if (room < n) return INSUFFICIENT_SIZE;
  if (!clocks) return INVALID_ARGUMENT;
  for (unsigned i = 0; i < n; i++) clocks[i] = (unsigned)(d[D_LAST_MHZ] - i * d[D_STEP_MHZ]);
  return SUCCESS;
}

EXPORT int nvmlDeviceSetGpuLockedClocks(device d, unsigned low, unsigned high) {
  uint64_t entered = now_ns();
  if (references && d) {
    uint64_t at = atomic_fetch_add(&state[H_RING_HEAD], 1) % RING;
    ring()[2 * at] = entered;
    ring()[2 * at + 1] = (uint64_t)index_of(d) << 32 | high;
    atomic_fetch_add(&d[D_SET_CALLS], 1);
  }
  int code = enter(d, F_SET, references && d ? d[D_CALL_US] : 0);
  if (code == -2) return SUCCESS;
  if (code >= 0) return code;
  if (!privileged()) {
    atomic_fetch_add(&d[D_DENIED_CALLS], 1);
    return NO_PERMISSION;
  }
  if (low > high || !supported(d, low) || !supported(d, high)) return INVALID_ARGUMENT;
  count_energy(d);
  uint64_t before = clock_mhz(d, NULL);
  d[D_CHANGED_NS] = now_ns();
  d[D_LOCK] = (uint64_t)low << 32 | (uint64_t)high << 16 | before;
  return SUCCESS;
}

EXPORT int nvmlDeviceResetGpuLockedClocks(device d) {
  if (references && d) atomic_fetch_add(&d[D_RESET_CALLS], 1);
  int code = enter(d, F_RESET, !references || !d ? 0 : d[D_RESET_US] ? d[D_RESET_US] : d[D_CALL_US]);
  if (code == -2) return SUCCESS;
  if (code >= 0) return code;
  if (!privileged()) {
    atomic_fetch_add(&d[D_DENIED_CALLS], 1);
    return NO_PERMISSION;
  }
  count_energy(d);
  d[D_CHANGED_NS] = now_ns();
  if (atomic_exchange(&d[D_LOCK], 0)) d[D_UNLOCKED_NS] = now_ns();
  return SUCCESS;
}

/* Graphics and memory alone have application clocks. */
static int read_application(device d, int field, int type, unsigned *mhz) {
  int code = enter(d, F_APPLICATION, references && d ? d[D_QUERY_US] : 0);
  if (code > 0) return code;
  if (!mhz || (type != 0 && type != 2)) return INVALID_ARGUMENT;
  if (!d[D_APP_MHZ]) return NOT_SUPPORTED;
  *mhz = (unsigned)d[type == 2 ? D_MEMORY_MHZ : field];
  return SUCCESS;
}
EXPORT int nvmlDeviceGetApplicationsClock(device d, int type, unsigned *mhz) {
  return read_application(d, D_APP_MHZ, type, mhz);
}
EXPORT int nvmlDeviceGetDefaultApplicationsClock(device d, int type, unsigned *mhz) {
  return read_application(d, D_APP_DEFAULT_MHZ, type, mhz);
}

static int event_reasons(device d, unsigned long long *reasons) {
  int code = enter(d, F_REASONS, references && d ? d[D_QUERY_US] : 0);
  if (code > 0) return code;
  if (!reasons) return INVALID_ARGUMENT;
  uint64_t why;
  clock_mhz(d, &why);
  *reasons = why;
  return SUCCESS;
}
EXPORT int nvmlDeviceGetCurrentClocksEventReasons(device d, unsigned long long *reasons) {
  return event_reasons(d, reasons);
}
EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *reasons) {
  return event_reasons(d, reasons);
}

EXPORT int nvmlDeviceGetPowerUsage(device d, unsigned *mw) {
  int code = enter(d, F_POWER, references && d ? d[D_QUERY_US] : 0);
  if (code > 0) return code;
  if (!mw) return INVALID_ARGUMENT;
  *mw = (unsigned)power_mw_at(d, clock_mhz(d, NULL));
  return SUCCESS;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(device d, unsigned long long *mj) {
  int code = enter(d, F_ENERGY, references && d ? d[D_QUERY_US] + d[D_ENERGY_US] : 0);
  if (code > 0) return code;
  if (!mj) return INVALID_ARGUMENT;
  count_energy(d);
  *mj = d[D_ENERGY_MJ];
  return SUCCESS;
}

static int read_cap(device d, int field, unsigned *mw) {
  int code = enter(d, F_POWER, 0);
  if (code > 0) return code;
  if (!mw) return INVALID_ARGUMENT;
  *mw = (unsigned)d[field];
  return SUCCESS;
}
EXPORT int nvmlDeviceGetPowerManagementLimit(device d, unsigned *mw) {
  return read_cap(d, D_CAP_MW, mw);
}
EXPORT int nvmlDeviceGetEnforcedPowerLimit(device d, unsigned *mw) {
  return read_cap(d, D_CAP_MW, mw);
}
EXPORT int nvmlDeviceGetPowerManagementDefaultLimit(device d, unsigned *mw) {
  return read_cap(d, D_CAP_DEFAULT_MW, mw);
}
EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(device d, unsigned *low, unsigned *high) {
  int code = read_cap(d, D_CAP_MIN_MW, low);
  return code ? code : read_cap(d, D_CAP_MAX_MW, high);
}

EXPORT int nvmlDeviceSetPowerManagementLimit(device d, unsigned mw) {
  if (references && d) atomic_fetch_add(&d[D_CAP_CALLS], 1);
  int code = enter(d, F_SET_CAP, references && d ? d[D_CALL_US] : 0);
  if (code == -2) return SUCCESS;
  if (code >= 0) return code;
  if (!privileged()) return NO_PERMISSION;
  if (mw < d[D_CAP_MIN_MW] || mw > d[D_CAP_MAX_MW]) return INVALID_ARGUMENT;
  count_energy(d);
  d[D_CAP_MW] = mw;
  return SUCCESS;
}
