#include "command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace coffer::tests {
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void die(const char *what) {
  std::perror(what);
  std::exit(2);
}

std::vector<char *> pointers(const std::vector<std::string> &words) {
  std::vector<char *> out;
  for (const std::string &w : words) out.push_back(const_cast<char *>(w.c_str()));
  out.push_back(nullptr);
  return out;
}

// Numbers among the entries of /proc.
std::vector<pid_t> pids() {
  std::vector<pid_t> out;
  for (const auto &entry : fs::directory_iterator("/proc"))
    if (const int pid = std::atoi(entry.path().filename().c_str()); pid > 0) out.push_back(pid);
  return out;
}

std::vector<std::string> split_nul(const std::string &text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace

std::string read_all(const fs::path &file) {
  // By hand: a file of /proc whose process ends meanwhile is a failed read, which a stream makes an
  // exception.
  std::string text;
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  char buffer[65536];
  for (ssize_t n; fd >= 0 && (n = read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(n));
  if (fd >= 0) close(fd);
  return text;
}

void write_all(const fs::path &file, std::string_view text) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!out.flush()) die(file.c_str());
}

Outcome run(const Argv &argv, const std::vector<std::string> &env, std::string_view input, const Kill *kill) {
  // Files, not pipes: output of processes that outlive the command would keep a pipe open.
  const TemporaryFolder folder;
  const fs::path in = folder.path() / "in", out = folder.path() / "out", err = folder.path() / "err";
  write_all(in, input);
  std::vector<char *> words = pointers(argv), variables = pointers(env);
  const auto begin = Clock::now();
  const pid_t pid = fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    setpgid(0, 0);
    const int fds[] = {open(in.c_str(), O_RDONLY | O_CLOEXEC),
                       open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
                       open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    for (int i = 0; i < 3; ++i)
      if (dup2(fds[i], i) < 0) _exit(125);
    execve(words[0], words.data(), variables.data());
    _exit(127);
  }
  setpgid(pid, pid);  // whichever of the two comes first
  if (kill) {
    std::this_thread::sleep_for(std::chrono::duration<double>(kill->after_seconds));
    ::kill(kill->group ? -pid : pid, SIGKILL);  // not reaped yet, so the pid is still its own
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) die("waitpid");
  Outcome o;
  o.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (WIFSIGNALED(status))
    o.signal = WTERMSIG(status);
  else
    o.code = WEXITSTATUS(status);
  o.out = read_all(out);
  o.err = read_all(err);
  return o;
}

TemporaryFolder::TemporaryFolder() {
  const char *base = std::getenv("TMPDIR");
  std::string name = std::string(base && *base ? base : "/tmp") + "/coffer-test-XXXXXX";
  if (!mkdtemp(name.data())) die("mkdtemp");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!keep_) fs::remove_all(path_, ignored);
}

std::vector<Process> processes_with(std::string_view marker) {
  std::vector<Process> out;
  for (const pid_t pid : pids()) {
    const fs::path proc = "/proc/" + std::to_string(pid);
    bool marked = false;
    for (const std::string &word : split_nul(read_all(proc / "cmdline"))) marked = marked || word == marker;
    if (!marked) continue;
    Process p;
    p.pid = pid;
    for (const std::string &entry : split_nul(read_all(proc / "environ"))) {
      const size_t equals = entry.find('=');
      if (equals != std::string::npos) p.env[entry.substr(0, equals)] = entry.substr(equals + 1);
    }
    p.machine = p.env["COFFER_MACHINE_ID"];
    out.push_back(std::move(p));
  }
  return out;
}

std::vector<pid_t> supervisors_below(const fs::path &machines) {
  constexpr const char *kFolderDescriptor = "fd/3";  // FD_FOLDER of runtime-process
  std::vector<pid_t> out;
  for (const pid_t pid : pids()) {
    const fs::path proc = "/proc/" + std::to_string(pid);
    if (!read_all(proc / "cmdline").starts_with("coffer-process-supervisor")) continue;
    std::error_code gone;
    if (fs::read_symlink(proc / kFolderDescriptor, gone).native().starts_with(machines.native() + "/"))
      out.push_back(pid);
  }
  return out;
}

void be_app(int delay_ms) {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, nullptr);
  int which = 0;
  sigwait(&term, &which);
  std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
  std::_Exit(0);
}

std::vector<std::string> json_fields(std::string_view json, std::string_view key) {
  const std::string begin = "\"" + std::string(key) + "\":\"";
  std::vector<std::string> out;
  for (size_t at = json.find(begin); at != std::string_view::npos; at = json.find(begin, at)) {
    at += begin.size();
    out.emplace_back(json.substr(at, json.find('"', at) - at));
  }
  return out;
}

}  // namespace coffer::tests
