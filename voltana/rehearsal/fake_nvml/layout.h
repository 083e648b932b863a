/* Layout of the shared state of the fake driver: 64-bit words only, so that every access is one
 * atomic operation. A process that is killed or stopped half-way leaves nothing locked, as with a
 * driver that lives in the kernel. voltana/rehearsal/machine.py reads the field names from here. */
#ifndef FAKE_NVML_LAYOUT_H
#define FAKE_NVML_LAYOUT_H

enum header_word {
  H_MAGIC,
  H_DEVICES,         /* number of devices */
  H_PRIVILEGED_UID,  /* effective uid that may change settings; root on a real machine */
  H_DRIVER_LOADED,   /* 0: nvmlInit returns DRIVER_NOT_LOADED */
  H_RING_HEAD,       /* entries ever written to the ring of set calls */
  H_INIT_CALLS,
  H_NEEDS_SYS_ADMIN, /* 1: changing settings takes CAP_SYS_ADMIN too, as in a container */
  H_TIME_PPM,        /* seconds in which energy is counted, in millionths of the wall's; 0: alike */
  H_INIT_MS,         /* what nvmlInit takes; UINT32_MAX: it never returns */
  H_WORDS = 64
};

enum device_word {
  D_LOCK,            /* (min << 16 | max) << 16 | clock before the change; 0 when not locked */
  D_CHANGED_NS,      /* when the lock was last changed, CLOCK_MONOTONIC */
  D_UNLOCKED_NS,     /* when the lock last went away */
  D_FIRST_MHZ,       /* supported clocks: first, last, step */
  D_LAST_MHZ,
  D_STEP_MHZ,
  D_MEMORY_MHZ,
  D_IDLE_MHZ,        /* SM clock of an idle, unlocked device */
  D_BUSY,            /* 1: a kernel runs, so an unlocked device boosts to its fastest clock */
  D_CALL_US,         /* duration of state-changing calls */
  D_QUERY_US,        /* duration of queries */
  D_SETTLE_US,       /* from the end of the call until the clock has changed */
  D_PERSISTENCE,     /* 0: settings vanish when the last process closes NVML */
  D_MIG,             /* 1: MIG is enabled */
  D_LOST,            /* 1: every call returns GPU_IS_LOST */
  D_CAP_MW,          /* power limit, its default and range */
  D_CAP_DEFAULT_MW,
  D_CAP_MIN_MW,
  D_CAP_MAX_MW,
  D_IDLE_MW,         /* power of an idle device */
  D_FULL_MW,         /* power of a busy device at its fastest clock, without a limit */
  D_TICK_MS,         /* the energy counter moves once in so many milliseconds */
  D_ENERGY_MJ,
  D_ENERGY_NS,       /* until when energy was counted */
  D_SET_CALLS,       /* calls that reached the driver, whether they succeeded or not */
  D_RESET_CALLS,
  D_DENIED_CALLS,    /* of those, refused for lack of permission */
  D_CAP_CALLS,
  D_HOLDERS,         /* not used by the driver: room for tests */
  D_GONE,            /* 1: the device has left the list: NOT_FOUND by name, lost to who holds it */
  D_RESET_US,        /* duration of resets; 0: that of other state-changing calls */
  D_IDLE_HIDES,      /* 1: an idle board runs at its idle clock, and says so, whatever was set */
  D_FAULTS = 32,     /* per function: kind << 56 | argument << 32 | remaining calls */
  D_SAID_BY = 48,    /* process that says what the device draws; 0: it follows from D_BUSY and clock */
  D_SAID_TURN,       /* odd while that is being written */
  D_SAID_NS,         /* since when, CLOCK_MONOTONIC */
  D_SAID_UJ,         /* energy by then */
  D_SAID_MW,         /* power from then on */
  D_SAID_MHZ,        /* clock to which its power limit lowers it; 0: not at all */
  D_ENERGY_US,       /* what reading the energy counter takes beyond other queries */
  D_BORN,            /* how often the device came back anew: older handles are GPU_IS_LOST for ever */
  D_APP_MHZ,         /* application clock; 0: the board has none (NOT_SUPPORTED) */
  D_APP_DEFAULT_MHZ, /* the one that it is delivered with */
  D_APP_BOOSTS,      /* 1: the default one is no limit, though its reason is given */
  D_WORDS = 64
};

/* Functions that a fault can be set for. */
enum fault_target {
  F_SET,
  F_RESET,
  F_CLOCK,
  F_REASONS,
  F_POWER,
  F_ENERGY,
  F_SET_CAP,
  F_HANDLE,
  F_MIG,
  F_PERSISTENCE,
  F_TABLE,
  F_APPLICATION,
  F_COUNT
};

enum fault_kind {
  K_NONE,
  K_CODE,   /* return the code in the argument */
  K_HANG,   /* block for so many milliseconds (0: for ever), then go on */
  K_SILENT  /* return success and do nothing */
};

enum { MAX_DEVICES = 64, MAX_PROCESSES = 512, RING = 4096 };
/* words: header, devices, process table (pids), ring of (entered ns, device << 32 | max MHz) */

#endif
