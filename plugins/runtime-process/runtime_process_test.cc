// What only holds for Machines that are processes of this host; the rest is the conformance suite's.
//   runtime_process_test PLUGIN.so
#include <coffer/runtime.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <thread>

#include "../../tests/support/loopback_server.h"
#include "supervisor.h"
#include "test_host.h"

namespace coffer::conformance {
namespace {
using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// "" for what has just gone, as processes do.
std::string read_file(const std::filesystem::path &path) {
  std::string out;
  std::FILE *in = std::fopen(path.c_str(), "re");
  if (!in) return out;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, in)) > 0;) out.append(buffer, n);
  std::fclose(in);
  return out;
}

struct Seen {
  uint32_t state = 0;
  int exit_code = 0;
  int pid = 0;
  std::string message, handle;
  static int32_t on_machine(void *ctx, const coffer_machine_status *s) noexcept {
    *static_cast<Seen *>(ctx) = {s->state, s->exit_code, std::atoi(std::string(view(s->native_id)).c_str()),
                                 std::string(view(s->message)), std::string(view(s->handle))};
    return 0;
  }
};

struct Machine {
  std::string image = "host", user = {};
  std::vector<std::pair<std::string, std::string>> secrets = {}, files = {};
  bool owner = false;
  uint32_t uid = 0;
  bool in_folder = false;
  std::function<void(coffer_machine_spec &)> also = {};
};

class RuntimeProcess : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    instance_ = open();
    table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
  }
  void TearDown() override {
    for (const std::string &h : handles_) {
      TestCall call;
      EXPECT_EQ(table_->destroy(raw(), call, bytes(h), 1), COFFER_OK) << call.message();
    }
    instance_.reset();
    PluginTest::TearDown();
  }

  coffer_status create(std::vector<std::string> argv, const Machine &o, std::string *handle,
                       std::string *message) {
    std::vector<coffer_str> words;
    for (const std::string &a : argv) words.push_back(str(a));
    deliveries(o, false);
    coffer_machine_spec spec{};
    spec.struct_size = sizeof spec;
    id_ = "machine" + std::to_string(handles_.size());
    spec.instance_id = str(id_);
    spec.image = str(o.image);
    spec.argv = words.data();
    spec.n_argv = words.size();
    spec.user = str(o.user);
    spec.deliveries = pointers_.data();
    spec.n_deliveries = pointers_.size();
    if (o.also) o.also(spec);
    TestCall call;
    Seen seen;
    const coffer_status status = table_->create(raw(), call, &spec, &Seen::on_machine, &seen);
    *message = call.message();
    if (status == COFFER_OK) handles_.push_back(*handle = seen.handle);
    return status;
  }
  coffer_status start(std::vector<std::string> argv, const Machine &o, std::string *handle,
                      std::string *message) {
    const coffer_status status = create(std::move(argv), o, handle, message);
    if (status != COFFER_OK) return status;
    deliveries(o, true);
    TestCall call;
    const coffer_status started =
        table_->start(raw(), call, bytes(*handle), pointers_.data(), pointers_.size());
    *message = call.message();
    return started;
  }
  std::string run(std::vector<std::string> argv, const Machine &o = {}) {
    std::string handle, message;
    EXPECT_EQ(start(std::move(argv), o, &handle, &message), COFFER_OK) << message;
    return handle;
  }
  std::string sleeper() { return run({"sleep", "1000"}); }
  void update(const std::string &handle, const Machine &o, std::string_view signal) {
    deliveries(o, true);
    TestCall call;
    const auto *table = instance_->table<coffer_runtime_update>(COFFER_RUNTIME_UPDATE_ID);
    EXPECT_EQ(table->update(raw(), call, bytes(handle), pointers_.data(), pointers_.size(), str(signal)),
              COFFER_OK)
        << call.message();
  }

  Seen inspect(const std::string &handle) {
    TestCall call;
    Seen seen;
    EXPECT_EQ(table_->inspect(raw(), call, bytes(handle), &Seen::on_machine, &seen), COFFER_OK)
        << call.message();
    return seen;
  }
  Seen wait_for_end(const std::string &handle) {
    Seen seen = inspect(handle);
    while (seen.state < COFFER_M_STOPPED && !HasFailure()) {
      TestCall call;
      call.deadline_in(30s);
      EXPECT_EQ(table_->wait(raw(), call, bytes(handle), &Seen::on_machine, &seen), COFFER_OK)
          << call.message();
    }
    return seen;
  }
  coffer_status stop(const std::string &handle) {
    TestCall call;
    return table_->stop(raw(), call, bytes(handle), str("SIGKILL"), 0);
  }
  std::string logs(const std::string &handle) {
    const auto *table = instance_->table<coffer_runtime_logs>(COFFER_RUNTIME_LOGS_ID);
    coffer_log_query query{};
    query.struct_size = sizeof query;
    std::string text;
    TestCall call;
    EXPECT_EQ(table->logs(
                  raw(), call, bytes(handle), &query,
                  [](void *ctx, uint32_t, int64_t, coffer_bytes data) noexcept -> int32_t {
                    *static_cast<std::string *>(ctx) += view(data);
                    return 0;
                  },
                  &text),
              COFFER_OK)
        << call.message();
    return text;
  }
  std::filesystem::path folder() const { return std::filesystem::path(state_dir()) / id_; }
  int supervisor_pid() const {
    const std::string run_file = read_file(folder() / "run");
    return std::atoi(run_file.c_str() + run_file.find("supervisor ") + 11);
  }
  static void wait_until_gone(int pid) {
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    if (fd < 0) return;
    pollfd gone = {fd, POLLIN, 0};
    EXPECT_EQ(::poll(&gone, 1, 10'000), 1) << "process " << pid << " lives on";
    ::close(fd);
  }

  coffer_instance *raw() const { return instance_->raw(); }
  const coffer_runtime *table_ = nullptr;
  std::unique_ptr<OpenInstance> instance_;
  std::string id_;

 private:
  void deliveries(const Machine &o, bool values) {
    deliveries_.clear();
    pointers_.clear();
    const auto add = [&](const auto &list, uint32_t via) {
      for (const auto &[name, value] : list) {
        coffer_delivery d{};
        d.struct_size = sizeof d;
        d.via = via;
        d.mode = 0400;
        d.name = str(name);
        if (values) d.value = bytes(value);
        if (via == COFFER_VIA_TMPFS && o.owner) d.flags = COFFER_DLV_OWNER, d.uid = o.uid, d.gid = o.uid;
        if (via == COFFER_VIA_TMPFS && o.in_folder) d.flags |= COFFER_DLV_FOLDER;
        deliveries_.push_back(d);
      }
    };
    add(o.secrets, COFFER_VIA_ENV);
    add(o.files, COFFER_VIA_TMPFS);
    for (const coffer_delivery &d : deliveries_) pointers_.push_back(&d);
  }
  std::vector<std::string> handles_;
  std::vector<coffer_delivery> deliveries_;
  std::vector<const coffer_delivery *> pointers_;
};

// ---- the image ----
TEST_F(RuntimeProcess, AbsolutePathOfAnExecutableIsAnImage) {
  const std::string handle = run({"-c", "echo \"$0 runs\""}, {.image = "/bin/sh"});
  EXPECT_EQ(wait_for_end(handle).state, COFFER_M_STOPPED);
  EXPECT_EQ(logs(handle), "/bin/sh runs\n");
}

TEST_F(RuntimeProcess, OtherImagesAreRefusedWithTheRemedy) {
  std::string handle, message;
  EXPECT_EQ(create({"x"}, {.image = "nginx:latest"}, &handle, &message), COFFER_INVALID_ARGUMENT);
  EXPECT_THAT(message, AllOf(HasSubstr("nginx:latest"), HasSubstr("'host'")));
  EXPECT_EQ(create({}, {}, &handle, &message), COFFER_INVALID_ARGUMENT);
  EXPECT_THAT(message, HasSubstr("command"));
  EXPECT_EQ(create({}, {.image = "/no/such/program"}, &handle, &message), COFFER_INVALID_ARGUMENT);
  EXPECT_THAT(message, HasSubstr("/no/such/program"));
  EXPECT_EQ(create({}, {.image = "/etc/passwd"}, &handle, &message), COFFER_INVALID_ARGUMENT);
}

TEST_F(RuntimeProcess, WhatOnlyContainersHaveIsRefusedByOption) {
  const coffer_port port = {sizeof port, 6, 80, 8080, {}}, *ports[] = {&port};
  const coffer_mount mount = {sizeof mount, 0, str("data"), str("/data")}, *mounts[] = {&mount};
  const coffer_str cap = str("ALL");
  const std::vector<std::pair<std::function<void(coffer_machine_spec &)>, std::string>> cases = {
      {[&](auto &s) { s.ports = ports, s.n_ports = 1; },
       "runtime-process has no network of its own: leave out --publish"},
      {[](auto &s) { s.network = str("host"); },
       "runtime-process has no network of its own: leave out --network"},
      {[&](auto &s) { s.mounts = mounts, s.n_mounts = 1; },
       "runtime-process shows the host's own files: leave out --volume and [[mounts]]"},
      {[](auto &s) { s.flags = COFFER_SPEC_READ_ONLY; },
       "runtime-process has no root file system of its own: leave out --read-only"},
      {[&](auto &s) { s.cap_drop = &cap, s.n_cap_drop = 1; },
       "runtime-process drops no capabilities: leave out --cap-drop"},
      {[](auto &s) { s.memory_bytes = 64u << 20; },
       "runtime-process limits no memory: leave out --memory and [[vm]]"}};
  for (const auto &[also, expected] : cases) {
    std::string handle, message;
    EXPECT_EQ(create({"true"}, {.also = also}, &handle, &message), COFFER_INVALID_ARGUMENT);
    EXPECT_EQ(message, expected);
    EXPECT_FALSE(std::filesystem::exists(folder()));
  }
}

// ---- checks ----
// Of the host's own loopback: whoever listens there.
TEST_F(RuntimeProcess, CheckIsTriedOnTheLoopbackOfTheHost) {
  const auto *table = instance_->table<coffer_runtime_probe>(COFFER_RUNTIME_PROBE_ID);
  const std::string handle = sleeper();
  std::string message;
  const auto probe = [&](unsigned port, const char *path = nullptr, bool deadline = true) {
    coffer_probe_spec spec{};
    spec.struct_size = sizeof spec;
    spec.kind = path ? COFFER_PROBE_HTTP : COFFER_PROBE_TCP;
    spec.port = port;
    if (path) spec.method = str("GET"), spec.path = str(path);
    TestCall call;
    if (deadline) call.deadline_in(200ms);
    const coffer_status status = table->probe(raw(), call, bytes(handle), &spec);
    message = call.message();
    return status;
  };
  using tests::LoopbackServer;
  const LoopbackServer good(LoopbackServer::kAnswer, "HTTP/1.1 204 No Content\r\n\r\n");
  EXPECT_EQ(probe(good.port_number()), COFFER_OK) << message;
  EXPECT_EQ(probe(good.port_number(), "/", /*deadline=*/false), COFFER_OK) << message;
  const LoopbackServer of_ipv6(LoopbackServer::kAnswer, "HTTP/1.1 503 canary\r\n\r\n", /*ipv6=*/true);
  EXPECT_EQ(probe(of_ipv6.port_number()), COFFER_OK) << message;
  EXPECT_EQ(probe(of_ipv6.port_number(), "/"), COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(message, "HTTP status 503");
  const LoopbackServer silent(LoopbackServer::kSilent);
  EXPECT_EQ(probe(silent.port_number(), "/"), COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(message, "no answer in time");
}

// ---- the process ----
TEST_F(RuntimeProcess, NeitherAppNorSupervisorCanDumpCore) {
  const std::string handle = sleeper();
  for (const int pid : {inspect(handle).pid, supervisor_pid()}) {
    rlimit core{};
    ASSERT_EQ(::prlimit(pid, RLIMIT_CORE, nullptr, &core), 0);
    EXPECT_LE(core.rlim_max, 1u);
    EXPECT_LE(core.rlim_cur, 1u);
  }
}

TEST_F(RuntimeProcess, AppCannotGainPrivileges) {
  const int pid = inspect(sleeper()).pid;
  EXPECT_THAT(read_file("/proc/" + std::to_string(pid) + "/status"), HasSubstr("NoNewPrivs:\t1"));
}

TEST_F(RuntimeProcess, AppHasNoDescriptorButItsOwnThree) {
  const std::string handle = run({"ls", "/proc/self/fd"});
  wait_for_end(handle);
  EXPECT_EQ(logs(handle), "0\n1\n2\n3\n");  // 3 is the folder that ls reads
}

TEST_F(RuntimeProcess, SupervisorHoldsNoValueAndNoDescriptorOfTheCaller) {
  const Canary canary(32);
  std::string value(canary.size(), 0);
  canary.reveal(value.data());
  for (char &c : value)
    if (c == 0) c = 1;  // the canary itself is not looked for below, but `value`
  run({"sleep", "1000"}, {.secrets = {{"CANARY", value}}});
  const int pid = supervisor_pid();
  if (::geteuid() != 0) {  // not even its own user may look: it is not dumpable
    EXPECT_NE(::access(("/proc/" + std::to_string(pid) + "/fd").c_str(), R_OK), 0);
    return;
  }
  const auto open_files_now = [&] {
    std::set<std::string> out;
    std::error_code ignored;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd"))
      out.insert(std::filesystem::read_symlink(entry.path(), ignored).string());
    return out;
  };
  const auto has_socket = [](const std::set<std::string> &files) {
    return std::any_of(files.begin(), files.end(),
                       [](const std::string &f) { return f.starts_with("socket:"); });
  };
  // It closes the socket of its report just after the report that start() waits for.
  std::set<std::string> open_files = open_files_now();
  for (const auto until = std::chrono::steady_clock::now() + 5s;
       has_socket(open_files) && std::chrono::steady_clock::now() < until; open_files = open_files_now())
    std::this_thread::yield();
  for (const std::string &f : open_files)
    EXPECT_TRUE(f == "/dev/null" || f.starts_with("pipe:") || f.starts_with("anon_inode:") ||
                f.starts_with(folder().string()))
        << f;
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  const int memory = ::open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(memory, 0);
  size_t searched = 0;
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    char mode[5] = "";
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) != 3 || mode[1] != 'w') continue;
    if (end - begin > (64u << 20)) continue;  // shadow memory of a sanitizer
    std::string text(end - begin, 0);
    const ssize_t n = ::pread(memory, text.data(), text.size(), static_cast<off_t>(begin));
    if (n <= 0) continue;
    searched += static_cast<size_t>(n);
    EXPECT_EQ(text.find(value), std::string::npos) << line;
  }
  ::close(memory);
  EXPECT_GT(searched, 4096u);
}

TEST_F(RuntimeProcess, MachineRunsAsItsUser) {
  if (::geteuid() != 0) {
    std::string handle, message;
    EXPECT_EQ(create({"id"}, {.user = "0"}, &handle, &message), COFFER_PERMISSION_DENIED);
    EXPECT_THAT(message, HasSubstr("without root"));
    GTEST_SKIP() << "the rest needs root";
  }
  const std::string script =
      "id -u; id -g; id -G; echo $HOME; cat /proc/self/status | grep CapEff; cat \"$0\"";
  ::chmod(tmp().c_str(), 0755);
  const std::string path = (tmp() / "secret").string();
  const std::string handle =
      run({"sh", "-c", script, path}, {.user = "65534:12345", .files = {{path, "mine\n"}}});
  EXPECT_EQ(wait_for_end(handle).exit_code, 0);
  EXPECT_THAT(logs(handle), AllOf(testing::StartsWith("65534\n12345\n12345\n"),
                                  HasSubstr("CapEff:\t0000000000000000"), HasSubstr("mine\n")));
  const std::string root_owned =
      run({"cat", path}, {.user = "65534:65534", .files = {{path, "root's\n"}}, .owner = true, .uid = 0});
  EXPECT_NE(wait_for_end(root_owned).exit_code, 0);
  EXPECT_THAT(logs(root_owned), Not(HasSubstr("root's")));
}

// The folder lies below one of the Machine's user, who leads its path to a tmpfs of the host.
TEST_F(RuntimeProcess, NewFilesDoNotFollowAPathThatTheAppHasBent) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  ::chmod(tmp().c_str(), 0755);
  const std::filesystem::path own = tmp() / "own", bait = tmp() / "bait";
  std::filesystem::create_directories(bait / "shm");
  std::filesystem::create_directory(own);
  ASSERT_EQ(::chown(own.c_str(), 65534, 65534), 0);
  std::filesystem::create_directory(own / "inner");
  ASSERT_EQ(::mount("bait", (bait / "shm").c_str(), "tmpfs", 0, "mode=0777"), 0);
  Machine with{
      .user = "65534:65534", .files = {{(own / "inner/shm/v").string(), "old value"}}, .in_folder = true};
  const std::string handle =
      run({"sh", "-c",
           "cd \"$0\" && mv inner gone && ln -s \"$1\" inner;"
           "trap 'cat gone/shm/v; exit 0' HUP; echo bent; while :; do sleep 0.02; done",
           own.string(), bait.string()},
          with);
  while (logs(handle) != "bent\n" && inspect(handle).state == COFFER_M_STARTED)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  with.files[0].second = "new value";
  update(handle, with, "SIGHUP");
  EXPECT_EQ(wait_for_end(handle).exit_code, 0);
  EXPECT_EQ(logs(handle), "bent\nnew value");
  EXPECT_TRUE(std::filesystem::is_empty(bait / "shm"));
  ASSERT_EQ(::umount((bait / "shm").c_str()), 0);
}

// Each takes a page, however small it is.
TEST_F(RuntimeProcess, ThousandsOfSmallFilesHaveRoomTwice) {
  Machine with{.in_folder = true};
  for (int i = 0; i < 5000; ++i)
    with.files.emplace_back((tmp() / "many" / std::to_string(10000 + i)).string(), "small");
  const std::string handle = run({"sleep", "1000"}, with);
  update(handle, with, "");
}

TEST_F(RuntimeProcess, ExecRunsAsTheUserOfTheMachine) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const std::string handle = run({"sleep", "1000"}, {.user = "65534:12345", .secrets = {{"S", "v"}}});
  const auto *table = instance_->table<coffer_runtime_exec>(COFFER_RUNTIME_EXEC_ID);
  const coffer_str words[] = {str("sh"), str("-c"), str("id -u; id -G; test \"$S\" = v")};
  coffer_exec_spec spec{};
  spec.struct_size = sizeof spec;
  spec.argv = words;
  spec.n_argv = 3;
  std::string text;
  coffer_exec_io io{};
  io.struct_size = sizeof io;
  io.ctx = &text;
  io.in_fd = -1;
  io.out = [](void *ctx, uint32_t, int64_t, coffer_bytes data) noexcept -> int32_t {
    *static_cast<std::string *>(ctx) += view(data);
    return 0;
  };
  TestCall call;
  int32_t code = -1;
  EXPECT_EQ(table->exec(raw(), call, bytes(handle), &spec, &io, &code), COFFER_OK) << call.message();
  EXPECT_EQ(code, 0);
  EXPECT_EQ(text, "65534\n12345\n");
}

TEST_F(RuntimeProcess, UnknownUserIsNamed) {
  std::string handle, message;
  EXPECT_EQ(create({"id"}, {.user = "no-such-user"}, &handle, &message), COFFER_INVALID_ARGUMENT);
  EXPECT_THAT(message, HasSubstr("no-such-user"));
}

// ---- places of files ----
TEST_F(RuntimeProcess, PlacesThatAreNoRegularFileAreRefused) {
  std::filesystem::create_directory(tmp() / "folder");
  std::filesystem::create_symlink("/etc/passwd", tmp() / "link");
  ASSERT_EQ(::mkfifo((tmp() / "fifo").c_str(), 0600), 0);
  for (const char *name : {"folder", "link", "fifo"}) {
    std::string handle, message;
    EXPECT_EQ(create({"true"}, {.files = {{(tmp() / name).string(), "v"}}}, &handle, &message),
              COFFER_FAILED_PRECONDITION);
    EXPECT_THAT(message, HasSubstr(name));
  }
}

TEST_F(RuntimeProcess, PlaceThatBecameASymlinkAfterCreateIsRefusedAndNothingIsMade) {
  std::string handle, message;
  const Machine o = {.files = {{(tmp() / "a" / "first").string(), "v"}, {(tmp() / "later").string(), "v"}}};
  ASSERT_EQ(create({"true"}, o, &handle, &message), COFFER_OK) << message;
  std::filesystem::create_symlink("/etc/passwd", tmp() / "later");
  coffer_delivery d[2] = {};
  const coffer_delivery *list[2] = {&d[0], &d[1]};
  for (int i = 0; i < 2; ++i) {
    d[i].struct_size = sizeof d[i];
    d[i].via = COFFER_VIA_TMPFS;
    d[i].mode = 0400;
    d[i].name = str(o.files[static_cast<size_t>(i)].first);
  }
  TestCall call;
  EXPECT_EQ(table_->start(raw(), call, bytes(handle), list, 2), COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(call.message(), HasSubstr("later"));
  EXPECT_FALSE(std::filesystem::exists(tmp() / "a"));
}

TEST_F(RuntimeProcess, PlaceThatCannotBeMadeIsNamedWithTheRemedy) {
  std::ofstream(tmp() / "file") << "x";
  std::string handle, message;
  EXPECT_EQ(start({"true"}, {.files = {{(tmp() / "file" / "below").string(), "v"}}}, &handle, &message),
            COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(message, AllOf(HasSubstr("below"), HasSubstr("empty file")));
}

TEST_F(RuntimeProcess, MadePlaceStaysBehindEmpty) {
  const std::string path = (tmp() / "made" / "place").string();
  wait_for_end(run({"cat", path}, {.files = {{path, "value\n"}}}));
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(std::filesystem::file_size(path), 0u);
}

TEST_F(RuntimeProcess, FilesLieOnATmpfsAndItsFolderIsNotReachable) {
  const std::string path = (tmp() / "secret").string();
  const std::string handle =
      run({"sh", "-c", "stat -f -c %T \"$0\"; grep -c ' - tmpfs coffer ' /proc/self/mountinfo; ls -A \"$1\"",
           path, state_dir() + "/machine0"},
          {.files = {{path, "v"}}});
  EXPECT_EQ(wait_for_end(handle).exit_code, 0);
  // The host may have some of that name: another runtime's.
  size_t mounts = 1;
  const std::string ours = read_file("/proc/self/mountinfo");
  for (size_t at = 0; (at = ours.find(" - tmpfs coffer ", at)) != std::string::npos; ++at) ++mounts;
  EXPECT_THAT(logs(handle),
              AllOf(testing::StartsWith("tmpfs\n" + std::to_string(mounts) + "\n"), HasSubstr("spec\n")));
}

// ---- supervisor and records ----
TEST_F(RuntimeProcess, KilledSupervisorTakesTheAppAlongAndIsFailed) {
  // A change of user makes the kernel forget that the app is to die with its parent.
  for (const char *user : {"", "65534:65534"}) {
    if (*user && ::geteuid() != 0) continue;
    const std::string handle = run({"sleep", "1000"}, {.user = user});
    const Seen before = inspect(handle);
    ASSERT_EQ(::kill(supervisor_pid(), SIGKILL), 0);
    const Seen after = wait_for_end(handle);
    EXPECT_EQ(after.state, COFFER_M_FAILED);
    EXPECT_THAT(after.message, HasSubstr("supervisor"));
    wait_until_gone(before.pid);
  }
}

TEST_F(RuntimeProcess, TermOfTheSupervisorIsAnOrderToStop) {
  const std::string handle = sleeper();
  ASSERT_EQ(::kill(supervisor_pid(), SIGTERM), 0);
  EXPECT_EQ(wait_for_end(handle).state, COFFER_M_STOPPED);
}

TEST_F(RuntimeProcess, HandleWithAnotherStartTimeNamesAMachineThatIsGone) {
  const std::string handle = sleeper();
  const Seen now = inspect(handle);
  std::string wrong = now.handle;
  wrong.back() = wrong.back() == '1' ? '2' : '1';
  EXPECT_EQ(inspect(wrong).state, COFFER_M_GONE);
  EXPECT_EQ(stop(wrong), COFFER_OK);
  TestCall call;
  EXPECT_EQ(table_->destroy(raw(), call, bytes(wrong), 1), COFFER_OK);
  EXPECT_EQ(inspect(now.handle).state, COFFER_M_STARTED) << "it was not touched";
}

// A record whose pid now belongs to somebody else: after a reboot, or when numbers have come round.
TEST_F(RuntimeProcess, ReusedPidIsNeverSignalled) {
  const std::string handle = sleeper();
  ASSERT_EQ(::kill(supervisor_pid(), SIGKILL), 0);
  wait_for_end(handle);
  const pid_t bystander = ::fork();
  if (bystander == 0) {
    ::pause();
    ::_exit(0);
  }
  const std::string record = read_file(folder() / "run");
  std::string forged = record.substr(0, record.find("supervisor "));
  forged += "supervisor " + std::to_string(bystander) + " 12345\napp " + std::to_string(bystander) +
            " 12345\nstarted 1\n";
  std::ofstream(folder() / "run") << forged;
  EXPECT_EQ(inspect(handle).state, COFFER_M_FAILED);
  EXPECT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(::kill(bystander, 0), 0);
  int status;
  EXPECT_EQ(::waitpid(bystander, &status, WNOHANG), 0) << "the bystander was killed";
  ::kill(bystander, SIGKILL);
  ::waitpid(bystander, &status, 0);
}

TEST_F(RuntimeProcess, RebootedHostIsFailedAndSaysSo) {
  const std::string handle = sleeper();
  const int app = inspect(handle).pid;
  ASSERT_EQ(::kill(supervisor_pid(), SIGKILL), 0);
  wait_for_end(handle);
  wait_until_gone(app);
  std::string record = read_file(folder() / "run");
  record.replace(record.find("boot_id ") + 8, 8, "00000000");
  std::ofstream(folder() / "run") << record;
  const Seen seen = inspect(handle);
  EXPECT_EQ(seen.state, COFFER_M_FAILED);
  EXPECT_THAT(seen.message, HasSubstr("restarted"));
}

// The caller dies between starting the supervisor and sending the frame.
TEST_F(RuntimeProcess, StartWhoseCallerDiesIsRecordedWith78) {
  std::string handle, message;
  ASSERT_EQ(create({"sleep", "1000"}, {}, &handle, &message), COFFER_OK) << message;
  const OpenArgs defaults(Plugin::under_test().descriptor(), options(), state_dir());
  const std::string program(view(defaults.raw()->options[0].value));
  int frame[2];
  ASSERT_EQ(::pipe2(frame, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int folder_fd = ::open(folder().c_str(), O_RDONLY | O_DIRECTORY);
    const int alive = ::open((folder() / "alive").c_str(), O_RDWR);
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    ::fcntl(alive, F_OFD_SETLK, &lock);
    const int null = ::open("/dev/null", O_RDWR);
    const int moved[] = {::fcntl(frame[0], F_DUPFD, 20), ::fcntl(null, F_DUPFD, 20),
                         ::fcntl(folder_fd, F_DUPFD, 20), ::fcntl(alive, F_DUPFD, 20)};
    ::dup2(moved[0], 0);
    ::dup2(moved[1], 1);
    ::dup2(moved[1], 2);
    ::dup2(moved[2], FD_FOLDER);
    ::dup2(moved[3], FD_ALIVE);
    ::dup2(moved[1], FD_STATUS);
    ::execl(program.c_str(), "coffer-process-supervisor", "run", id_.c_str(), nullptr);
    ::_exit(1);
  }
  int status;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ::close(frame[0]);
  ::close(frame[1]);  // this is the caller's death
  const Seen seen = wait_for_end(handle);
  EXPECT_EQ(seen.state, COFFER_M_FAILED);
  EXPECT_EQ(seen.exit_code, 78);
  EXPECT_THAT(seen.message, HasSubstr("boot frame"));
}

TEST_F(RuntimeProcess, CallerKilledAtAnyMomentLeavesNoStrayApp) {
  const std::string mark = "98765" + std::to_string(::getpid());  // seconds that nobody else sleeps
  for (int round = 0; round < 60; ++round) {
    const pid_t caller = ::fork();
    ASSERT_GE(caller, 0);
    if (caller == 0) {
      std::string handle, message;
      start({"sleep", mark}, {.secrets = {{"LARGE", std::string(100'000, 'v')}}}, &handle, &message);
      ::_exit(0);
    }
    ::usleep(static_cast<unsigned>(round) * 150);  // 0 .. 9 ms: from before create to after start
    ::kill(caller, SIGKILL);
    int status;
    ASSERT_EQ(::waitpid(caller, &status, 0), caller);
    TestCall call;
    ASSERT_EQ(table_->destroy(raw(), call, bytes("coffer-process 1 machine0"), 1), COFFER_OK)
        << call.message();
    for (const auto &entry : std::filesystem::directory_iterator("/proc")) {
      const std::string arguments = read_file(entry.path() / "cmdline");
      EXPECT_EQ(arguments.find(std::string("sleep\0", 6) + mark), std::string::npos) << entry.path();
    }
  }
}

TEST_F(RuntimeProcess, FilesAreRefusedWhereNoNamespaceCanBeMade) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give a capability away";
  instance_.reset();
  const pid_t child = ::fork();  // a caller of its own, for what is given away does not come back
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN);
    instance_ = open();
    table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
    TestCall call;
    TestSink health;
    Plugin::under_test().entry().probe(raw(), call, health);
    if (health.data().find("tmpfs") != std::string_view::npos) ::_exit(1);
    std::string handle, message;
    const std::string path = (tmp() / "place").string();
    if (start({"true"}, {.files = {{path, "v"}}}, &handle, &message) != COFFER_FAILED_PRECONDITION)
      ::_exit(2);
    if (message.find("namespace") == std::string::npos) ::_exit(3);
    if (std::filesystem::exists(path)) ::_exit(4);
    if (start({"true"}, {.secrets = {{"A", "v"}}}, &handle, &message) != COFFER_OK) ::_exit(5);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  instance_ = open();
  table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
  for (const char *handle : {"coffer-process 1 machine0", "coffer-process 1 machine1"}) {
    TestCall call;
    EXPECT_EQ(table_->destroy(raw(), call, bytes(handle), 1), COFFER_OK);
  }
}

TEST_F(RuntimeProcess, LeftoversOfKilledCallersAreSweptAndDamagedSpecsAreNamed) {
  std::filesystem::create_directories(std::filesystem::path(state_dir()) / ".new-old");
  std::filesystem::create_directories(std::filesystem::path(state_dir()) / ".gone-old");
  std::string handle, message;
  ASSERT_EQ(create({"true"}, {}, &handle, &message), COFFER_OK) << message;
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(state_dir()) / ".new-old"));
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(state_dir()) / ".gone-old"));
  std::ofstream(folder() / "spec") << "garbage";
  TestCall call;
  Seen seen;
  EXPECT_EQ(table_->inspect(raw(), call, bytes(handle), &Seen::on_machine, &seen), COFFER_DATA_LOSS);
  EXPECT_THAT(call.message(), HasSubstr(id_));
}

TEST_F(RuntimeProcess, SupervisorThatCannotRunIsNamed) {
  std::ofstream(tmp() / "not-a-program") << "x";
  instance_.reset();
  instance_ = open({{"supervisor", (tmp() / "not-a-program").string()}});
  table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
  std::string handle, message;
  EXPECT_EQ(start({"true"}, {}, &handle, &message), COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(message, HasSubstr("not-a-program"));
  EXPECT_EQ(inspect(handle).state, COFFER_M_CREATED) << "nothing ran, so it can still be started";
}

TEST_F(RuntimeProcess, StateFolderOfOthersIsRefused) {
  instance_.reset();
  ASSERT_EQ(::chmod(state_dir().c_str(), 0755), 0);
  const auto refused = try_open();
  EXPECT_EQ(refused->status(), COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(refused->message(), HasSubstr("0700"));
  ASSERT_EQ(::chmod(state_dir().c_str(), 0700), 0);
  instance_ = open();
}

TEST_F(RuntimeProcess, LogIsRotatedAndStaysReadable) {
  const std::string handle = run({"sh", "-c",
                                  "i=0; while [ $i -lt 3 ]; do head -c 6000000 /dev/zero | tr '\\0' x; "
                                  "i=$((i+1)); done; echo; echo last"});
  EXPECT_EQ(wait_for_end(handle).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(folder() / "log.1"));
  EXPECT_LE(std::filesystem::file_size(folder() / "log"), 8u << 20);
  const std::string text = logs(handle);
  EXPECT_GT(text.size(), 8'000'000u);
  EXPECT_TRUE(text.ends_with("x\nlast\n"));
}

TEST_F(RuntimeProcess, SupervisorIsSmall) {
  const std::string handle = sleeper();
  const std::string status = read_file("/proc/" + std::to_string(supervisor_pid()) + "/status");
  std::istringstream in(status.substr(status.find("VmRSS:") + 6));
  long kib = 0;
  in >> kib;
  RecordProperty("supervisor_rss_kib", std::to_string(kib));
  std::printf("supervisor RSS %ld KiB\n", kib);
#ifdef SUPERVISOR_IS_STATIC  // else it carries a libc or a sanitizer
  EXPECT_LT(kib, 1024);
#endif
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_RUNTIME_ID); }
