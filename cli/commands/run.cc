// coffer run: a local command with the App's secrets in its environment.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <map>
#include <optional>

#include "../output.h"
#include "coffer/base/names.h"
#include "commands.h"

extern char **environ;  // NOLINT: POSIX

namespace coffer::cli {
namespace {

pid_t child = -1;
// What was sent to us alone.  A Ctrl-C goes to the whole foreground group, so the child has it already.
void pass_on(int signal, siginfo_t *info, void *) {
  if (child > 0 && info->si_code <= 0) ::kill(child, signal);
}

// The child's environment in locked memory: "NAME=VALUE\0" of each entry, then the pointers.
class Environment {
 public:
  explicit Environment(const std::vector<Delivery> &secrets) {
    std::map<std::string_view, const Delivery *> by_name;
    for (const Delivery &d : secrets) by_name.emplace(d.name, &d);
    size_t size = 0;
    for (const Delivery &d : secrets) size += d.name.size() + 1 + d.value.size() + 1;
    text_ = SecretBytes(size);
    auto to = text_.fill();
    for (const Delivery &d : secrets) {
      pointers_.push_back(reinterpret_cast<char *>(to.data()));
      std::memcpy(to.data(), d.name.data(), d.name.size());
      to[d.name.size()] = '=';
      if (!d.value.empty())
        std::memcpy(to.data() + d.name.size() + 1, d.value.reveal().data(), d.value.size());
      to = to.subspan(d.name.size() + 1 + d.value.size() + 1);
    }
    for (char **e = environ; *e; ++e) {
      const std::string_view entry = *e;
      if (!by_name.contains(entry.substr(0, entry.find('=')))) pointers_.push_back(*e);
    }
    pointers_.push_back(nullptr);
  }
  char **get() { return pointers_.data(); }

 private:
  SecretBytes text_;
  std::vector<char *> pointers_;
};

}  // namespace

Result<int> run(Arguments &a) {
  if (a.tail.empty())
    return fail(ErrorCode::kInvalidArgument, "no command was given",
                "Put it behind --: `coffer run -a APP -- CMD`.");
  for (size_t i = 0; i < a.only.size(); ++i)
    if (auto named = check_secret_name(a.only[i]); !named)
      return std::unexpected(std::move(named).error().in("--only, name " + std::to_string(i + 1)));
  COFFER_TRY(const auto engine, Engine::open(a));
  COFFER_TRY(const App app, engine->app());
  COFFER_TRY(std::vector<Delivery> secrets,
             engine->environment(app, std::set<std::string>(a.only.begin(), a.only.end())));
  std::optional<Environment> environment(secrets);
  secrets.clear();
  std::vector<char *> argv;
  for (const std::string &word : a.tail) argv.push_back(const_cast<char *>(word.c_str()));
  argv.push_back(nullptr);
  // The child needs the locked memory until it execs, so it shares ours: vfork(2), and nothing in it but
  // exec.
  struct sigaction forward{};
  forward.sa_sigaction = pass_on;
  forward.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) ::sigaction(s, &forward, nullptr);
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  volatile int exec_errno = 0;
  const pid_t pid = ::vfork();
  if (pid == 0) {
    for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    ::execvpe(argv[0], argv.data(), environment->get());
    exec_errno = errno;
    ::_exit(exec_errno == ENOENT ? 127 : 126);
  }
  child = pid;
  environment.reset();  // the command has its own copy now
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0)
    return fail(ErrorCode::kUnavailable, std::string("cannot start a process: ") + std::strerror(errno));
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  child = -1;
  if (exec_errno)
    print_error({ErrorCode::kInvalidArgument,
                 "the command cannot be run: " + std::string(std::strerror(exec_errno)),
                 exec_errno == E2BIG ? "Its environment is too large: choose secrets with --only." : ""});
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace coffer::cli
