// coffer_init_test COFFER_INIT TEST_APP [gtest options]
//
// coffer-init as Docker would start it: as an ordinary process, and (as root) as PID 1 of a namespace of its
// own, as another user, in a root that holds two files.
#include <elf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../tests/support/command.h"
#include "boot_frame.h"

namespace {
namespace fs = std::filesystem;
using coffer::tests::Argv;
using coffer::tests::Outcome;
using coffer::tests::read_all;
using coffer::tests::TemporaryFolder;
using coffer::tests::write_all;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;
using testing::UnorderedElementsAreArray;
using Strings = std::vector<std::string>;

std::string init, app;  // paths of the two programs
constexpr std::string_view kId = "machine-1-boot-2";
constexpr const char *kCanary = "canary-5b1f";  // in every frame, and never in an output of coffer-init
constexpr uid_t kAppUser = 65532, kOther = 1000;

// ---- frames ----
struct Variable {
  std::string name, value;
};
std::string frame(std::vector<Variable> variables, std::string_view id = kId, bool with_file = false) {
  variables.push_back({"CANARY", kCanary});
  std::sort(variables.begin(), variables.end(), [](auto &a, auto &b) { return a.name < b.name; });
  std::string out;
  for (const bool measure : {true, false}) {
    coffer_boot_writer w;
    coffer_boot_begin(&w, measure ? nullptr : reinterpret_cast<uint8_t *>(out.data()), out.size(), id.data(),
                      id.size());
    for (const Variable &v : variables)
      coffer_boot_put_env(&w, v.name.data(), v.name.size(), v.value.data(), v.value.size());
    if (with_file) coffer_boot_put_file(&w, "/run/key", 8, kCanary, strlen(kCanary), 0400, 0, 0, 0);
    EXPECT_EQ(coffer_boot_end(&w), COFFER_BOOT_OK);
    out.resize(w.used);
  }
  return out;
}
std::string frame() { return frame({}); }

Strings entries(const std::string &text) {
  Strings out;
  for (size_t at = 0, end; (end = text.find('\0', at)) != std::string::npos; at = end + 1)
    out.push_back(text.substr(at, end - at));
  return out;
}

// ---- processes ----
Argv command(Strings first, const Strings &more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}
Argv run_argv(const Strings &words) { return command({init, "run", std::string(kId), "--"}, words); }
Outcome run(const Strings &words, const std::string &input, const Strings &env = {}) {
  Outcome o = coffer::tests::run(run_argv(words), env, input);
  EXPECT_THAT(o.err, Not(HasSubstr(kCanary)));
  return o;
}
void expect_refused(const Outcome &o, int code, const std::string &sentence) {
  EXPECT_EQ(o.code, code);
  EXPECT_EQ(o.err, "coffer-init: " + sentence + "\n");
  EXPECT_EQ(o.out, "");
}

void become(uid_t id) {
  if (syscall(SYS_setgroups, 0, nullptr) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)
    _exit(124);
}

// A process with a pipe as standard input, and optionally PID 1 of a namespace with its own /proc.
class Child {
 public:
  enum Where { kHere, kOwnNamespace };
  // `before` runs in the child.  Returns when the program runs.
  Child(
      const Argv &argv, const Strings &env, Where where = kHere,
      const std::function<void()> &before = [] {}) {
    int in[2], running[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(running, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    const int out = open(out_path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    const int err = open(err_path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    const unsigned long flags = where == kOwnNamespace ? CLONE_NEWPID | CLONE_NEWNS : 0;
    pid_ = static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
    if (pid_ == 0) {
      dup2(in[0], 0), dup2(out, 1), dup2(err, 2);
      if (where == kOwnNamespace && (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                                     mount("proc", "/proc", "proc", 0, nullptr) != 0))
        _exit(124);
      before();
      std::vector<char *> words, variables;
      for (const std::string &w : argv) words.push_back(const_cast<char *>(w.c_str()));
      for (const std::string &v : env) variables.push_back(const_cast<char *>(v.c_str()));
      words.push_back(nullptr), variables.push_back(nullptr);
      // Under the name that it has in a container.
      std::string name = argv[0] == init ? "/.coffer/init" : argv[0];
      words[0] = name.data();
      execve(argv[0].c_str(), words.data(), variables.data());
      _exit(124);
    }
    close(in[0]), close(running[1]), close(out), close(err);
    input_ = in[1];
    char end;
    EXPECT_EQ(read(running[0], &end, 1), 0);
    close(running[0]);
  }
  ~Child() {
    close_input();
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;

  pid_t pid() const { return pid_; }
  fs::path proc() const { return "/proc/" + std::to_string(pid_); }
  std::string out() const { return read_all(out_path()); }
  void give(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = write(input_, bytes.data(), bytes.size());
      if (n < 0) return;  // it has ended
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void close_input() {
    if (input_ >= 0) close(input_);
    input_ = -1;
  }
  // Asks until `claim` holds; false when it does not within 10 s.
  static bool eventually(const std::function<bool()> &claim) {
    for (int i = 0; i < 10000; ++i, usleep(1000))
      if (claim()) return true;
    return false;
  }
  bool says(std::string_view text) const {
    return eventually([&] { return out().find(text) != std::string::npos; });
  }
  // Whether it has a handler for the last signal, so for all of them.
  bool handles_signals() const {
    return eventually([&] {
      const std::string status = read_all(proc() / "status");
      const size_t at = status.find("SigCgt:\t");
      return at != std::string::npos && (std::stoull(status.substr(at + 8, 16), nullptr, 16) >> 63) & 1;
    });
  }
  bool has_ended() const {
    siginfo_t ended = {};
    return waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           ended.si_pid != 0;
  }
  Outcome wait() {
    Outcome o;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    if (WIFSIGNALED(status))
      o.signal = WTERMSIG(status);
    else
      o.code = WEXITSTATUS(status);
    o.out = out();
    o.err = read_all(err_path());
    EXPECT_THAT(o.err, Not(HasSubstr(kCanary)));
    return o;
  }

 private:
  fs::path out_path() const { return folder_.path() / "out"; }
  fs::path err_path() const { return folder_.path() / "err"; }

  TemporaryFolder folder_;
  pid_t pid_ = -1;
  int input_ = -1;
};

#define NEEDS_ROOT() \
  if (geteuid() != 0) GTEST_SKIP() << "needs root: namespaces, other users"

// ---- the program ----
TEST(CofferInitProgram, IsSmallAndNeedsNoLoader) {
  const std::string bytes = read_all(init);
  EXPECT_GT(bytes.size(), 4096u);
  EXPECT_LT(bytes.size(), 65536u);
  const auto *header = reinterpret_cast<const Elf64_Ehdr *>(bytes.data());
  ASSERT_EQ(memcmp(header->e_ident, ELFMAG, SELFMAG), 0);
  ASSERT_GT(header->e_phnum, 0);
  const auto *segments = reinterpret_cast<const Elf64_Phdr *>(bytes.data() + header->e_phoff);
  for (int i = 0; i < header->e_phnum; ++i) {
    EXPECT_NE(segments[i].p_type, unsigned{PT_INTERP});
    EXPECT_NE(segments[i].p_type, unsigned{PT_DYNAMIC});
  }
}

TEST(CofferInitProgram, SaysHowItIsUsed) {
  const std::string id(kId);
  for (const Argv &argv :
       {Argv{init}, Argv{init, "ru", "--", app}, Argv{init, "run"}, Argv{init, "run", id},
        Argv{init, "run", id, app}, Argv{init, "run", id, "--"}, Argv{init, "run", "--", app},
        Argv{init, "run", id, "--workdir", "--", app}, Argv{init, "run", id, "--workdir", "/"},
        Argv{init, "exec"}, Argv{init, "exec", "--"}, Argv{init, "exec", app},
        Argv{init, "exec", id, "--", app}, Argv{init, "--version", "x"}}) {
    const Outcome o = coffer::tests::run(argv, {});
    EXPECT_EQ(o.code, 2);
    EXPECT_THAT(o.err, StartsWith("usage: coffer-init run INSTANCE_ID"));
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1);
  }
  const Outcome version = coffer::tests::run({init, "--version"}, {});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, StartsWith("coffer-init "));
}

// ---- run: values ----
TEST(CofferInitRun, GivesTheAppEachByteOfEachValue) {
  std::string all;
  for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
  const std::string large(131000, 'L');
  const Outcome o =
      run({app, "env"}, frame({{"ALL", all}, {"EMPTY", ""}, {"LARGE", large}, {"OWN", "secret"}, {"_", "="}}),
          {"OWN=docker", "OWNER=kept", "KEPT=a=b", "OW=kept", "without equals", "PATH=/nowhere"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(o.err, "");
  EXPECT_THAT(entries(o.out),
              UnorderedElementsAreArray(Strings{"ALL=" + all, "EMPTY=", "LARGE=" + large, "OWN=secret",
                                                "_==", std::string("CANARY=") + kCanary, "OWNER=kept",
                                                "KEPT=a=b", "OW=kept", "without equals", "PATH=/nowhere"}));
}

TEST(CofferInitRun, OverridesEachOfAThousandVariables) {
  std::vector<Variable> variables;
  Strings docker, expected{std::string("CANARY=") + kCanary};
  for (int i = 0; i < 1000; ++i) {
    const std::string name = "V" + std::to_string(i);
    variables.push_back({name, "secret" + std::to_string(i)});
    expected.push_back(name + "=secret" + std::to_string(i));
    docker.push_back(name + "=docker");
    docker.push_back(name + "_=docker");
    expected.push_back(name + "_=docker");
  }
  const Outcome o = run({app, "env"}, frame(variables), docker);
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), UnorderedElementsAreArray(expected));
}

TEST(CofferInitRun, GivesAnEmptyFrameNothingButDockersVariables) {
  const std::string_view id = kId;
  std::string empty(COFFER_BOOT_HEADER_SIZE + 4 + id.size() + 4, 0);
  coffer_boot_writer w;
  coffer_boot_begin(&w, reinterpret_cast<uint8_t *>(empty.data()), empty.size(), id.data(), id.size());
  ASSERT_EQ(coffer_boot_end(&w), COFFER_BOOT_OK);
  const Outcome o = run({app, "env"}, empty, {"A=1", "B=2"});
  EXPECT_THAT(entries(o.out), ElementsAre("A=1", "B=2"));
}

TEST(CofferInitRun, TakesAFrameInPiecesOfAnySize) {
  const std::string large(131000, 'L'), bytes = frame({{"A", large}, {"B", large}});
  Child child(run_argv({app, "env"}), {});
  ASSERT_TRUE(child.handles_signals());
  for (size_t at = 0; at < 40; ++at) child.give(bytes.substr(at, 1));
  child.give(bytes.substr(40));  // more than a pipe holds, and left open
  const Outcome o = child.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), testing::Contains("B=" + large));
}

TEST(CofferInitRun, GivesAllThatAFrameCanHoldWhereTheKernelTakesIt) {
  std::vector<Variable> variables;
  for (int i = 10; i < 41; ++i) variables.push_back({"V" + std::to_string(i), std::string(131000, 'v')});
  const std::string bytes = frame(variables);
  ASSERT_GT(bytes.size(), COFFER_BOOT_MAX_SIZE - 140000);
  rlimit stack;
  ASSERT_EQ(getrlimit(RLIMIT_STACK, &stack), 0);
  if (stack.rlim_max != RLIM_INFINITY) GTEST_SKIP() << "the stack's hard limit is too small";
  Child child(run_argv({app, "env"}), {}, Child::kHere, [] {
    const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &unlimited);
  });
  child.give(bytes);
  const Outcome o = child.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(entries(o.out).size(), variables.size() + 1);
}

TEST(CofferInitRun, SaysThatAnEnvironmentIsTooLarge) {
  const std::string sentence =
      app + ": environment and arguments are too large for the kernel; mount large secrets as files";
  expect_refused(run({app, "env"}, frame({{"ONE", std::string(131072, 'v')}})), 126, sentence);
  std::vector<Variable> many;
  for (int i = 10; i < 30; ++i) many.push_back({"V" + std::to_string(i), std::string(131000, 'v')});
  Child child(run_argv({app, "env"}), {}, Child::kHere, [] {
    rlimit stack;
    getrlimit(RLIMIT_STACK, &stack);
    stack.rlim_cur = 8 << 20;  // of which the kernel gives a quarter
    setrlimit(RLIMIT_STACK, &stack);
  });
  child.give(frame(many));
  expect_refused(child.wait(), 126, sentence);
}

// ---- run: what else the app gets ----
TEST(CofferInitRun, LeavesTheAppNullAsStandardInputAndNoDescriptorOfItsOwn) {
  for (const bool closed : {true, false}) {
    Child child(run_argv({app, "state"}), {}, Child::kHere, [] { dup2(1, 9); });
    child.give(frame() + "and more");
    if (closed) child.close_input();
    const Outcome o = child.wait();
    EXPECT_EQ(o.code, 0) << o.err;
    EXPECT_THAT(o.out, HasSubstr("stdin device 1:3, reads 0\n"));
    EXPECT_THAT(o.out, EndsWith("open 0 1 2 9\n")) << "9 is Docker's to give";
  }
}

TEST(CofferInitRun, StartsTheAppWithDefaultSignals) {
  Child child(run_argv({app, "state"}), {}, Child::kHere, [] {
    for (int s = 1; s <= 64; ++s) {
      const unsigned long ignored[8] = {1};
      syscall(SYS_rt_sigaction, s, ignored, nullptr, 8);
    }
    const unsigned long all = ~0ul;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, 8);
  });
  child.give(frame());
  const Outcome o = child.wait();
  EXPECT_THAT(o.out, HasSubstr("blocked 0\nnot default\n"));
}

TEST(CofferInitRun, StaysTheSameProcessAndKeepsArguments) {
  Child child(run_argv({app, "state", "one", "--", "two words"}), {});
  child.give(frame());
  const std::string pid = std::to_string(child.pid());
  const Outcome o = child.wait();
  EXPECT_THAT(o.out, StartsWith("args one -- two words\npid " + pid + "\n"));
}

TEST(CofferInitRun, EntersTheWorkingDirectory) {
  const TemporaryFolder folder;
  const std::string id(kId), dir = folder.path();
  Outcome o = coffer::tests::run({init, "run", id, "--workdir", dir, "--", app, "state"}, {}, frame());
  EXPECT_THAT(o.out, HasSubstr("cwd " + dir + "\n"));
  o = coffer::tests::run({init, "run", id, "--workdir", dir + "/no", "--", app, "state"}, {}, frame());
  expect_refused(o, 126, "cannot enter the working directory " + dir + "/no: No such file or directory");
}

// ---- run: no good frame ----
TEST(CofferInitRun, EndsWith78WithoutAGoodFrame) {
  std::string magic = frame(), version = frame(), large = frame(), end = frame();
  magic[0] = 'c';
  version[8] = 2;
  large[15] = 1;
  end.back() = 1;
  const struct {
    std::string input, sentence;
  } cases[] = {
      {"",
       "standard input ended before a boot frame came: this container was started behind Coffer's back; "
       "use `coffer machine restart`"},
      {frame().substr(0, 7), "the boot frame is cut short"},
      {frame().substr(0, frame().size() - 1), "the boot frame is cut short"},
      {frame({}, "machine-1-boot-1"), "the boot frame is meant for another instance"},
      {magic, "what came on standard input is no boot frame"},
      {version, "the boot frame has a version that is not known here"},
      {large, "the boot frame is larger than 4 MiB"},
      {end, "the boot frame is malformed"},
      {frame({}, kId, true), "the boot frame is malformed"},  // has a file
      {std::string("DB_PASSWORD=") + kCanary + "\n", "what came on standard input is no boot frame"},
  };
  for (const auto &c : cases) expect_refused(run({app, "env"}, c.input), 78, c.sentence);
}

TEST(CofferInitRun, EndsWith78WhenStandardInputIsClosed) {
  Child child(run_argv({app, "env"}), {}, Child::kHere, [] { close(0); });
  expect_refused(child.wait(), 78, "the boot frame cannot be read");
}

TEST(CofferInitRun, EndsWith78WhenNobodyReadsItsSentence) {
  Child child(run_argv({app, "env"}), {}, Child::kHere, [] {
    int fds[2];
    if (pipe(fds) == 0) dup2(fds[1], 2), close(fds[0]), close(fds[1]);
  });
  child.close_input();
  EXPECT_EQ(child.wait().code, 78);
}

TEST(CofferInitRun, WaitsTenSecondsInAllForAFrameThatTrickles) {
  const auto begin = std::chrono::steady_clock::now();
  const std::string bytes = frame();
  Child child(run_argv({app, "env"}), {});
  for (size_t at = 0; at < 30 && !child.has_ended(); ++at) {
    child.give(bytes.substr(at, 1));
    usleep(400000);  // the trickle
  }
  const Outcome o = child.wait();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  expect_refused(o, 78,
                 "no complete boot frame came within 10 seconds: this container was started behind Coffer's "
                 "back; use `coffer machine restart`");
  EXPECT_GT(took.count(), 9.9);
  EXPECT_LT(took.count(), 13);
}

// ---- run: signals while it waits ----
void expect_ends_at_once(Child::Where where) {
  for (const int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, 37 /* SIGRTMIN+3 of systemd images */}) {
    Child child(run_argv({app, "env"}), {}, where);
    ASSERT_TRUE(child.handles_signals());
    child.give(frame().substr(0, 20));
    ASSERT_EQ(kill(child.pid(), s), 0);
    const Outcome o = child.wait();
    EXPECT_EQ(o.code, 128 + s);
    EXPECT_EQ(o.err, "");
  }
}
TEST(CofferInitRun, EndsAtOnceBySignalsWhileItWaits) { expect_ends_at_once(Child::kHere); }
TEST(CofferInitRun, EndsAtOnceBySignalsWhileItWaitsAsPid1) {
  NEEDS_ROOT();
  expect_ends_at_once(Child::kOwnNamespace);
}

// ---- run: commands ----
class CofferInitCommand : public testing::Test {
 protected:
  fs::path file(const std::string &name, const std::string &bytes, mode_t mode = 0755) {
    const fs::path path = folder_.path() / name;
    fs::create_directories(path.parent_path());
    write_all(path, bytes);
    chmod(path.c_str(), mode);
    return path;
  }
  fs::path dir(const std::string &name) const { return folder_.path() / name; }

  TemporaryFolder folder_;
};

TEST_F(CofferInitCommand, IsSearchedInPathLikeAShellDoes) {
  file("plain/cmd", "no program", 0644);
  fs::create_directories(dir("folder/cmd"));
  file("first/cmd", "#!" + app + " env\n");
  file("second/cmd", "#!" + app + " state\n");
  const std::string path = "PATH=/nowhere:" + app + "/x:" + dir("plain").string() + ":" +
                           dir("folder").string() + ":" + dir("first").string() + ":" +
                           dir("second").string();
  const Outcome o = run({"cmd"}, frame(), {path});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), testing::Contains(path));
  // The environment that counts is the new one.
  EXPECT_EQ(run({"cmd"}, frame({{"PATH", dir("first")}}), {"PATH=/nowhere"}).code, 0);
  EXPECT_EQ(run({"cmd"}, frame({{"PATH", "/nowhere"}}), {path}).code, 127);
  // Without PATH: the usual folders.
  EXPECT_EQ(run({"true"}, frame()).code, 0);
}

TEST_F(CofferInitCommand, ThatIsNotFoundEndsWith127) {
  const std::string here = "PATH=" + dir("").string();
  expect_refused(run({"no-such"}, frame(), {here}), 127, "no-such: not found in the image's PATH");
  expect_refused(run({"/no/such"}, frame(), {here}), 127, "/no/such: not found in the image");
  expect_refused(run({app + "/x"}, frame(), {here}), 127, app + "/x: not found in the image");
  expect_refused(run({""}, frame(), {here}), 127, "the command is empty");
  expect_refused(run({"two\nlines\x7f"}, frame(), {here}), 127, "two?lines?: not found in the image's PATH");
  expect_refused(run({std::string(9000, 'c')}, frame(), {here}), 127,
                 std::string(500, 'c') + ": not found in the image's PATH");
}

TEST_F(CofferInitCommand, ThatCannotRunEndsWith126) {
  file("not-executable", "#!/bin/sh\n", 0644);
  file("no-program", "echo " + std::string(kCanary) + "\n");
  file("no-interpreter", "#!/no/such/interpreter\n");
  fs::create_directories(dir("folder"));
  std::string foreign = read_all(app);
  reinterpret_cast<Elf64_Ehdr *>(foreign.data())->e_machine = EM_S390;
  file("foreign", foreign);
  const struct {
    const char *name;
    int code;
    std::string sentence;
  } cases[] = {
      {"not-executable", 126, "Permission denied"},
      {"folder", 126, "is a folder"},
      {"no-program", 126,
       "not a program for this system: built for another architecture, or a script without #!"},
      {"foreign", 126,
       "not a program for this system: built for another architecture, or a script without #!"},
      {"no-interpreter", 127, "is there, but not the interpreter or loader that it needs"},
  };
  for (const auto &c : cases) {
    const std::string path = dir(c.name);
    expect_refused(run({path}, frame()), c.code, path + ": " + c.sentence);
    expect_refused(run({c.name}, frame(), {"PATH=/nowhere:" + dir("").string() + ":/nowhere"}), c.code,
                   std::string(c.name) + ": " + c.sentence);
  }
  // What is forbidden says more than what is broken.
  file("a/cmd", "#!/no/such/interpreter\n");
  file("b/cmd", "#!/bin/sh\n", 0644);
  const std::string a = dir("a"), b = dir("b");
  for (const std::string &path : {a + ":" + b, b + ":" + a})
    expect_refused(run({"cmd"}, frame(), {"PATH=" + path}), 126, "cmd: Permission denied");
}

TEST_F(CofferInitCommand, IsNotSaidToBeForbiddenForAFolderOfPathThatIs) {
  NEEDS_ROOT();
  file("closed/other", "");
  chmod(dir("closed").c_str(), 0700);
  chmod(folder_.path().c_str(), 0755);
  Child child(run_argv({"cmd"}), {"PATH=" + dir("closed").string()}, Child::kHere, [] { become(kAppUser); });
  child.give(frame());
  expect_refused(child.wait(), 127, "cmd: not found in the image's PATH");
}

// ---- run: in a container ----
// A root that holds /.coffer/init, /dev/null and one static program.
class CofferInitImage : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_ROOT();
    for (const char *d : {".coffer", "dev", "bin"}) fs::create_directories(root() / d);
    fs::copy_file(init, root() / ".coffer/init");
    fs::copy_file(app, root() / "bin/app");
    ASSERT_EQ(mknod((root() / "dev/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
    chmod((root() / "dev/null").c_str(), 0666);
    chmod(root().c_str(), 0755);
  }
  fs::path root() const { return folder_.path() / "root"; }
  // Read-only, without a right, as USER 65532.
  std::function<void()> inside() const {
    return [root = root().string()] {
      if (mount(root.c_str(), root.c_str(), nullptr, MS_BIND, nullptr) != 0 ||
          mount("", root.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) != 0 ||
          chdir(root.c_str()) != 0 || chroot(".") != 0)
        _exit(124);
      for (int c = 0; c < 64; ++c) prctl(PR_CAPBSET_DROP, c);
      become(kAppUser);
      prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      const rlimit none = {0, 0};
      setrlimit(RLIMIT_MEMLOCK, &none);
      setrlimit(RLIMIT_NPROC, &none);
    };
  }
  TemporaryFolder folder_;
};

TEST_F(CofferInitImage, OfOneStaticProgramRunsWithoutAnyRight) {
  Child child({"/.coffer/init", "run", std::string(kId), "--", "app", "state"}, {}, Child::kOwnNamespace,
              inside());
  child.give(frame());
  const Outcome o = child.wait();
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(o.out, StartsWith("args\npid 1\nuser 65532:65532 files 65532:65532\ncwd /\n"));
  EXPECT_THAT(o.out, HasSubstr("stdin device 1:3, reads 0\n"));
}

TEST_F(CofferInitImage, WithoutProcRefusesExec) {
  Child child({"/.coffer/init", "exec", "--", "app", "state"}, {}, Child::kOwnNamespace, inside());
  expect_refused(child.wait(), 126, "cannot read the environment of the app: No such file or directory");
}

TEST_F(CofferInitImage, ShowsItsMemoryToNobodyWhileItWaits) {
  Child child({"/.coffer/init", "run", std::string(kId), "--", "app", "wait"}, {}, Child::kOwnNamespace,
              inside());
  ASSERT_TRUE(child.handles_signals());
  const auto owner = [&] {
    struct stat st = {};
    EXPECT_EQ(stat((child.proc() / "mem").c_str(), &st), 0);
    return st.st_uid;
  };
  EXPECT_EQ(owner(), 0u);  // the kernel gives what is not dumpable to root
  child.give(frame());
  ASSERT_TRUE(child.says("ready"));
  EXPECT_EQ(owner(), kAppUser) << "the app is an ordinary process again";
}

// ---- exec ----
class CofferInitExec : public testing::Test {
 protected:
  void SetUp() override { NEEDS_ROOT(); }
  static Outcome exec(const Child &pid1, const Strings &words, const Strings &env = {},
                      const Strings &nsenter = {}, const Strings &options = {}) {
    const Argv enter = command({"/usr/bin/nsenter", "-t", std::to_string(pid1.pid()), "-p", "-m"}, nsenter);
    const Argv call = command(command(command(enter, {"--", init, "exec"}), options), {"--"});
    Outcome o = coffer::tests::run(command(call, words), env);
    EXPECT_THAT(o.err, Not(HasSubstr(kCanary)));
    return o;
  }
  static Strings as(uid_t id) { return {"-S", std::to_string(id), "-G", std::to_string(id)}; }
};

TEST_F(CofferInitExec, GivesTheCommandTheEnvironmentOfTheApp) {
  std::string all;
  for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
  Child pid1(run_argv({app, "wait"}), {"PLAIN=docker", "without equals"}, Child::kOwnNamespace);
  pid1.give(frame({{"ALL", all}, {"EMPTY", ""}, {"LARGE", std::string(131000, 'L')}}));
  ASSERT_TRUE(pid1.says("ready"));
  const Outcome o = exec(pid1, {app, "env"}, {"OF_EXEC=1"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out),
              UnorderedElementsAreArray(Strings{"ALL=" + all, "EMPTY=", "LARGE=" + std::string(131000, 'L'),
                                                std::string("CANARY=") + kCanary, "PLAIN=docker"}));
}

// Root in a container has fewer rights than root, so is one user among others.
TEST_F(CofferInitExec, TakesTheAppsUserForReadingAlone) {
  const TemporaryFolder folder;
  const std::string of_root = folder.path() / "of-root", of_group = folder.path() / "of-group";
  for (const std::string &d : {of_root, of_group}) fs::create_directories(d);
  chmod(folder.path().c_str(), 0755);
  chmod(of_root.c_str(), 0100);
  ASSERT_EQ(chown(of_group.c_str(), kOther, 0), 0);
  chmod(of_group.c_str(), 0010);
  Child pid1({app, "wait"}, {"A=1"}, Child::kOwnNamespace, [] { become(kAppUser); });
  ASSERT_TRUE(pid1.says("ready"));
  const auto as_root = [&](const std::string &rights, const Strings &words, const Strings &options) {
    return exec(pid1, words, {}, {"-S", "0", "-G", "0", "--", "/usr/bin/setpriv", "--bounding-set=" + rights},
                options);
  };
  Outcome o = as_root("-all,+setuid,+setgid", {app, "env"}, {});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), ElementsAre("A=1"));
  for (const std::string &dir : {of_root, of_group}) {
    o = as_root("-all,+setuid,+setgid", {app, "state"}, {"--workdir", dir});
    EXPECT_EQ(o.code, 0) << o.err;
    EXPECT_THAT(o.out, HasSubstr("user 0:0 files 0:0\n"));
    EXPECT_THAT(o.out, EndsWith("not default\nopen 0 1 2\n"));
  }
  const std::string refused =
      "cannot read the environment of the app: it runs as user 65532:65532, this command as 0:0; run it as "
      "the app's user";
  for (const char *rights : {"-all", "-all,+setuid", "-all,+setgid"})
    expect_refused(as_root(rights, {app, "env"}, {}), 126, refused);
}

TEST_F(CofferInitExec, ReadsWithoutAnyRightAsTheAppsOwnUser) {
  Child pid1({app, "wait"}, {"A=1"}, Child::kOwnNamespace, [] { become(kAppUser); });
  ASSERT_TRUE(pid1.says("ready"));
  const Outcome o = exec(pid1, {app, "env"}, {}, as(kAppUser));
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), ElementsAre("A=1"));
}

TEST_F(CofferInitExec, IsRefusedToAnotherUser) {
  const std::string begin = "cannot read the environment of the app: it runs as user ";
  Child as_root({app, "wait"}, {"A=1"}, Child::kOwnNamespace);
  ASSERT_TRUE(as_root.says("ready"));
  expect_refused(exec(as_root, {app, "env"}, {}, as(kOther)), 126,
                 begin + "0:0, this command as 1000:1000; run it as the app's user");
  Child as_user({app, "wait"}, {"A=1"}, Child::kOwnNamespace, [] { become(kAppUser); });
  ASSERT_TRUE(as_user.says("ready"));
  expect_refused(exec(as_user, {app, "env"}, {}, as(kOther)), 126,
                 begin + "65532:65532, this command as 1000:1000; run it as the app's user");
}

TEST_F(CofferInitExec, IsRefusedWhereTheAppChangedItsUserWithoutANewProgram) {
  Child pid1({app, "setuid", "65532"}, {"A=1"}, Child::kOwnNamespace);
  ASSERT_TRUE(pid1.says("ready"));
  expect_refused(exec(pid1, {app, "env"}, {}, as(kAppUser)), 126,
                 "cannot read the environment of the app: it runs as user 65532:65532, this command as "
                 "65532:65532, but the kernel does not show it");
}

TEST_F(CofferInitExec, IsRefusedBeforeTheAppHasStarted) {
  Child pid1(run_argv({app, "wait"}), {"A=1"}, Child::kOwnNamespace);
  ASSERT_TRUE(pid1.handles_signals());
  expect_refused(exec(pid1, {app, "env"}), 126,
                 "cannot read the environment of the app: the app has not started yet");
  pid1.give(frame());
  ASSERT_TRUE(pid1.says("ready"));
  EXPECT_EQ(exec(pid1, {app, "env"}).code, 0);
}

TEST_F(CofferInitExec, GivesAnEmptyEnvironmentOfAnAppThatHasNone) {
  Child pid1({app, "wait"}, {}, Child::kOwnNamespace);
  ASSERT_TRUE(pid1.says("ready"));
  const Outcome o = exec(pid1, {app, "env"}, {"OF_EXEC=1"});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(entries(o.out), IsEmpty());
}

TEST_F(CofferInitExec, StartsWhereTheAppIsUnlessToldOtherwise) {
  Child pid1({app, "wait"}, {"A=1"}, Child::kOwnNamespace, [] {
    if (chdir("/usr") != 0) _exit(124);
  });
  ASSERT_TRUE(pid1.says("ready"));
  EXPECT_THAT(exec(pid1, {app, "state"}).out, HasSubstr("cwd /usr\n"));
  EXPECT_THAT(exec(pid1, {app, "state"}, {}, {}, {"--workdir", "/usr/bin"}).out, HasSubstr("cwd /usr/bin\n"));
  expect_refused(exec(pid1, {app, "state"}, {}, {}, {"--workdir", "/no"}), 126,
                 "cannot enter the working directory /no: No such file or directory");
}

TEST_F(CofferInitExec, SearchesThePathOfTheApp) {
  const std::string bin = fs::path(app).parent_path(), name = fs::path(app).filename();
  Child pid1({app, "wait"}, {"PATH=" + bin}, Child::kOwnNamespace);
  ASSERT_TRUE(pid1.says("ready"));
  EXPECT_EQ(exec(pid1, {name, "env"}, {"PATH=/nowhere"}).code, 0);
  expect_refused(exec(pid1, {"true"}, {"PATH=/usr/bin"}), 127, "true: not found in the image's PATH");
}

}  // namespace

int main(int argc, char **argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 3) {
    fprintf(stderr, "usage: coffer_init_test COFFER_INIT TEST_APP\n");
    return 2;
  }
  init = argv[1];
  app = argv[2];
  signal(SIGPIPE, SIG_IGN);
  syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);  // what the caller left open is not the app's
  return RUN_ALL_TESTS();
}
