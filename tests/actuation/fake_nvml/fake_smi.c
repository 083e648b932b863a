/* A fake nvidia-smi on top of the fake driver: the calls that NvidiaSmiActuator makes, no more.
 * As a small C program it is a lower bound of what the real one costs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct device *device;
int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByIndex_v2(unsigned, device *);
int nvmlDeviceGetHandleByUUID(const char *, device *);
int nvmlDeviceGetName(device, char *, unsigned);
int nvmlDeviceGetUUID(device, char *, unsigned);
int nvmlDeviceGetClockInfo(device, int, unsigned *);
int nvmlDeviceGetSupportedMemoryClocks(device, unsigned *, unsigned *);
int nvmlDeviceGetSupportedGraphicsClocks(device, unsigned, unsigned *, unsigned *);
int nvmlDeviceSetGpuLockedClocks(device, unsigned, unsigned);
int nvmlDeviceResetGpuLockedClocks(device);
int nvmlDeviceGetApplicationsClock(device, int, unsigned *);
int nvmlDeviceGetCurrentClocksEventReasons(device, unsigned long long *);

static int fail(const char *what, int code) {
  fprintf(stderr, "%s: NVML error %d\n", what, code);
  return 1;
}

int main(int argc, char **argv) {
  device d;
  int code = nvmlInit_v2();
  if (code) return fail("init", code);
  if (argc < 4 || strcmp(argv[1], "-i")) return fail("usage", 2);
  if (strncmp(argv[2], "GPU-", 4))
    code = nvmlDeviceGetHandleByIndex_v2((unsigned)atoi(argv[2]), &d);
  else
    code = nvmlDeviceGetHandleByUUID(argv[2], &d);
  if (code) return fail("handle", code);
  const char *ask = argv[3];
  unsigned low, high, mhz;
  if (sscanf(ask, "--lock-gpu-clocks=%u,%u", &low, &high) == 2) {
    code = nvmlDeviceSetGpuLockedClocks(d, low, high);
    if (code) return fail("lock", code);
  } else if (!strcmp(ask, "--reset-gpu-clocks")) {
    code = nvmlDeviceResetGpuLockedClocks(d);
    if (code) return fail("reset", code);
  } else if (!strcmp(ask, "--query-gpu=uuid")) {
    char uuid[96];
    if ((code = nvmlDeviceGetUUID(d, uuid, sizeof uuid))) return fail("uuid", code);
    puts(uuid);
  } else if (!strcmp(ask, "--query-gpu=name")) {
    char name[96];
    if ((code = nvmlDeviceGetName(d, name, sizeof name))) return fail("name", code);
    puts(name);
  } else if (!strcmp(ask, "--query-gpu=clocks.sm")) {
    if ((code = nvmlDeviceGetClockInfo(d, 1, &mhz))) return fail("clock", code);
    printf("%u\n", mhz);
  } else if (!strcmp(ask, "--query-gpu=clocks.applications.graphics")) {
    code = nvmlDeviceGetApplicationsClock(d, 0, &mhz);
    if (code && code != 3) return fail("application clock", code);
    if (code) puts("[N/A]"); else printf("%u\n", mhz);
  } else if (!strncmp(ask, "--query-gpu=clocks_event_reasons.", 33)) {
    unsigned long long why;
    if ((code = nvmlDeviceGetCurrentClocksEventReasons(d, &why))) return fail("reasons", code);
    printf("%s, %s\n", why & 4 ? "Active" : "Not Active", why & 8 ? "Active" : "Not Active");
  } else if (!strcmp(ask, "--query-supported-clocks=gr")) {
    unsigned memory, one = 1, count = 512, clocks[512];
    if ((code = nvmlDeviceGetSupportedMemoryClocks(d, &one, &memory))) return fail("memory", code);
    code = nvmlDeviceGetSupportedGraphicsClocks(d, memory, &count, clocks);
    if (code) return fail("clocks", code);
    for (unsigned i = 0; i < count; i++) printf("%u\n", clocks[i]);
  } else {
    return fail("usage", 2);
  }
  nvmlShutdown();
  return 0;
}
