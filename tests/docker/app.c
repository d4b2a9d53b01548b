// The only file of the image coffer-test/static: says what it is asked, and needs nothing of its image.
//   app sleep [MS]       waits; on SIGTERM prints "got TERM" and ends with 0, MS milliseconds later
//   app ignore-term      waits, and SIGTERM does nothing
//   app env NAME         prints the variable, or ends with 1 when there is none
//   app file PATH        prints the file
//   app pid              prints its process id
//   app ids              prints UID:GID
//   app args ARG...      prints each on a line
//   app exit N           ends with N
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int wait_for_signals(int ends_at_term, int delay_ms) {
  sigset_t set;
  int got = 0;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  puts("ready");
  fflush(stdout);
  do sigwait(&set, &got);
  while (!ends_at_term);
  puts("got TERM");
  fflush(stdout);
  usleep((useconds_t)delay_ms * 1000);
  return 0;
}

static int print_file(const char *path) {
  char buffer[4096];
  ssize_t n;
  int fd = open(path, O_RDONLY);
  if (fd < 0) return fail(path);
  while ((n = read(fd, buffer, sizeof buffer)) > 0) fwrite(buffer, 1, (size_t)n, stdout);
  return n < 0 ? fail(path) : 0;
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "sleep";
  const char *operand = argc > 2 ? argv[2] : "";
  if (!strcmp(verb, "sleep")) return wait_for_signals(1, atoi(operand));
  if (!strcmp(verb, "ignore-term")) return wait_for_signals(0, 0);
  if (!strcmp(verb, "file")) return print_file(operand);
  if (!strcmp(verb, "exit")) return atoi(operand);
  if (!strcmp(verb, "pid")) return printf("%d\n", (int)getpid()) < 0;
  if (!strcmp(verb, "ids")) return printf("%d:%d\n", (int)getuid(), (int)getgid()) < 0;
  if (!strcmp(verb, "env")) {
    const char *value = getenv(operand);
    return value == NULL || fputs(value, stdout) < 0;
  }
  if (!strcmp(verb, "args")) {
    for (int i = 2; i < argc; ++i) puts(argv[i]);
    return 0;
  }
  fprintf(stderr, "app: what is %s?\n", verb);
  return 2;
}
