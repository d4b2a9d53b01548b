#include "server/daemon.h"

#include <malloc.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <new>

#include "cli/output.h"
#include "coffer/base/log.h"
#include "coffer/base/process.h"

namespace coffer {

int daemon_main(int argc, char **argv, const char *name, const char *help,
                const std::function<Result<void>(const std::string &engine)> &serve, bool *init) {
  // Each thread has an arena of its own otherwise, and what a burst of requests took stays with them.
  ::mallopt(M_ARENA_MAX, 2);
  // Else each request gives its memory back to the system, to ask for it again.
  ::mallopt(M_TRIM_THRESHOLD, 1 << 20);
  occupy_standard_streams();
  harden_process();
  set_log_level(LogLevel::kInfo);
  std::string engine;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h") return std::fputs(help, stdout) < 0;
    if (word == "--version") return std::printf("%s %s\n", name, COFFER_VERSION) < 0;
    if (word == "--init" && init) {
      *init = true;
    } else if (word == "--verbose") {
      set_log_level(LogLevel::kDebug);
    } else if (word == "--engine" && i + 1 < argc) {
      engine = argv[++i];
    } else {
      std::fprintf(stderr, "Error: an option is not known, or lacks its value\nSee %s --help.\n", name);
      return 2;
    }
  }
  try {
    const auto served = serve(engine);
    if (served) return 0;
    cli::print_error(served.error());
    return cli::exit_code(served.error().code);
  } catch (const std::bad_alloc &) {
    std::fputs("Error: out of memory\n", stderr);
  } catch (...) {
    // The text of an exception could quote its input.
    std::fputs("Error: internal error\n", stderr);
  }
  return 1;
}

Result<std::vector<uid_t>> users_of(const char *table, const std::vector<std::string> &names) {
  std::vector<uid_t> out;
  for (const std::string &name : names) {
    uid_t uid = 0;
    const auto [end, e] = std::from_chars(name.data(), name.data() + name.size(), uid);
    if (e != std::errc() || end != name.data() + name.size()) {
      const passwd *p = ::getpwnam(name.c_str());
      if (!p)
        return fail(ErrorCode::kNotFound,
                    "[" + std::string(table) + "] names user " + name + ", who does not exist on this host");
      uid = p->pw_uid;
    }
    out.push_back(uid);
  }
  return out;
}

int stop_signals() {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  return ::signalfd(-1, &stop, SFD_CLOEXEC);
}

void lock_memory(const char *service) {
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    log(LogLevel::kWarn, service, "memory cannot be locked: raise LimitMEMLOCK in the unit");
}

}  // namespace coffer
