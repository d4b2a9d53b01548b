// coffer-conformance-runtime PLUGIN.so [key=value ...] [--image=IMAGE] [--http=COMMAND]
//
// COMMAND serves HTTP in IMAGE, on the port in $PORT (default: this program): / is there, /missing is not,
// and /cgi-bin/silent is never answered. Does a plugin keep the contract of coffer/runtime.h?  IMAGE
// (default: host) needs sh, cat, od, sleep, env and printf, as BusyBox has them.  What a Machine sees is told
// by its log, so logs are part of the suite.
#include <coffer/runtime.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <thread>

#include "test_host.h"

namespace coffer::conformance {
namespace {
using namespace std::chrono_literals;
using testing::AnyOf;
using testing::Eq;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string image = "host", http_command;

struct Delivery {
  std::string name, value;
  uint32_t via = COFFER_VIA_ENV, mode = 0;
  std::optional<std::pair<uint32_t, uint32_t>> owner = {};
  uint32_t flags = 0;  // besides those of a secret and of its owner
};
Delivery file(std::string path, std::string value, uint32_t mode = 0400) {
  return {std::move(path), std::move(value), COFFER_VIA_TMPFS, mode};
}

struct Order {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env = {}, labels = {};
  std::vector<Delivery> deliveries = {};
  std::string instance_id = {}, user = {}, workdir = {}, image_name = image;
  std::string stop_signal = {};
  uint64_t stop_timeout_ns = 0;
  bool older_host = false;  // the spec ends with `workdir`, and the memory behind it is something else
};
Order sh(std::string script) { return {.argv = {"sh", "-c", std::move(script)}}; }

struct Seen {
  uint32_t state = COFFER_M_UNKNOWN;
  int exit_code = 0, exit_signal = 0;
  std::string name, instance_id, message, handle;
  std::map<std::string, std::string> labels;
  int64_t created_ns = 0, started_ns = 0, finished_ns = 0;
};

struct Sightings {
  std::vector<Seen> all;
  static int32_t on_machine(void *ctx, const coffer_machine_status *s) noexcept {
    Seen seen{s->state,
              s->exit_code,
              s->exit_signal,
              std::string(view(s->name)),
              std::string(view(s->instance_id)),
              std::string(view(s->message)),
              std::string(view(s->handle)),
              {},
              s->created_ns,
              s->started_ns,
              s->finished_ns};
    for (size_t i = 0; i < s->n_labels; ++i)
      seen.labels.emplace(view(s->labels[i].key), view(s->labels[i].value));
    static_cast<Sightings *>(ctx)->all.push_back(std::move(seen));
    return 0;
  }
};

struct Chunk {
  uint32_t stream;
  int64_t time_ns;
  std::string data;
};
struct Chunks {
  std::vector<Chunk> all;
  std::function<bool(const Chunks &)> enough = {};
  static int32_t on_chunk(void *ctx, uint32_t stream, int64_t time_ns, coffer_bytes data) noexcept {
    auto &self = *static_cast<Chunks *>(ctx);
    self.all.push_back({stream, time_ns, std::string(view(data))});
    return self.enough && self.enough(self);
  }
  std::string text(uint32_t stream = 0) const {
    std::string out;
    for (const Chunk &c : all)
      if (stream == 0 || c.stream == stream) out += c.data;
    return out;
  }
};

// The bytes that `od -An -v -tx1` has printed.
std::string from_od(const std::string &text) {
  std::string out;
  unsigned byte;
  int used;
  for (const char *p = text.c_str(); std::sscanf(p, "%2x%n", &byte, &used) == 1; p += used)
    out += static_cast<char>(byte);
  return out;
}

std::map<std::string, std::string> parse_environ(const std::string &block) {
  std::map<std::string, std::string> out;
  for (size_t at = 0; at < block.size();) {
    const size_t end = std::min(block.find('\0', at), block.size());
    const std::string entry = block.substr(at, end - at);
    out.emplace(entry.substr(0, entry.find('=')), entry.substr(std::min(entry.find('=') + 1, entry.size())));
    at = end + 1;
  }
  return out;
}

// The handle's delivery structs live here; values are borrowed from the order.
class SpecView {
 public:
  SpecView(const Order &o, bool values) {
    for (const std::string &a : o.argv) argv_.push_back(str(a));
    for (const auto &[key, value] : o.env) env_.push_back({str(key), bytes(value)});
    for (const auto &[key, value] : o.labels) labels_.push_back({str(key), bytes(value)});
    for (const Delivery &d : o.deliveries) {
      coffer_delivery out{};
      out.struct_size = sizeof out;
      out.via = d.via;
      out.flags = COFFER_DLV_SECRET | (d.owner ? COFFER_DLV_OWNER : 0) | d.flags;
      out.mode = d.mode;
      out.name = str(d.name);
      if (values) out.value = bytes(d.value);
      if (d.owner) std::tie(out.uid, out.gid) = *d.owner;
      deliveries_.push_back(out);
    }
    for (const coffer_delivery &d : deliveries_) pointers_.push_back(&d);
    spec_.struct_size = sizeof spec_;
    spec_.name = str("conformance");
    spec_.instance_id = str(o.instance_id);
    spec_.image = str(o.image_name);
    spec_.argv = argv_.data();
    spec_.n_argv = argv_.size();
    spec_.env = env_.data();
    spec_.n_env = env_.size();
    spec_.labels = labels_.data();
    spec_.n_labels = labels_.size();
    spec_.deliveries = pointers_.data();
    spec_.n_deliveries = pointers_.size();
    spec_.user = str(o.user);
    spec_.workdir = str(o.workdir);
    spec_.stop_signal = str(o.stop_signal);
    spec_.stop_timeout_ns = o.stop_timeout_ns;
    if (o.older_host) {
      spec_.struct_size = offsetof(coffer_machine_spec, ports);
      std::memset(&spec_.ports, 0xa5, sizeof spec_ - spec_.struct_size);
    }
  }
  SpecView(const SpecView &) = delete;
  SpecView &operator=(const SpecView &) = delete;
  const coffer_machine_spec *spec() const { return &spec_; }
  const coffer_delivery *const *deliveries() const { return pointers_.data(); }
  size_t n_deliveries() const { return pointers_.size(); }

 private:
  std::vector<coffer_str> argv_;
  std::vector<coffer_pair> env_, labels_;
  std::vector<coffer_delivery> deliveries_;
  std::vector<const coffer_delivery *> pointers_;
  coffer_machine_spec spec_{};
};

struct ExecResult {
  coffer_status status;
  int32_t code = -1;
  std::string out, err, message;
};

class Runtime : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    reopen();
  }

  void TearDown() override {
    for (const std::string &handle : created_) EXPECT_EQ(destroy(handle), COFFER_OK);
    instance_.reset();
    PluginTest::TearDown();
  }

  void reopen() {
    instance_.reset();
    instance_ = open();
    table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
    ASSERT_NE(table_, nullptr);
  }

  std::string fresh_id() { return "t" + std::to_string(::getpid()) + "-" + std::to_string(++next_); }

  coffer_status try_create(Order &order, std::string *handle = nullptr, std::string *message = nullptr) {
    if (order.instance_id.empty()) order.instance_id = fresh_id();
    const SpecView view_of(order, false);
    TestCall call;
    Sightings seen;
    const coffer_status status = table_->create(raw(), call, view_of.spec(), &Sightings::on_machine, &seen);
    if (message) *message = call.message();
    if (status == COFFER_OK) {
      EXPECT_EQ(seen.all.size(), 1u);
      if (seen.all.empty()) return COFFER_INTERNAL;
      EXPECT_FALSE(seen.all[0].handle.empty());
      EXPECT_LE(seen.all[0].handle.size(), 4096u);
      EXPECT_EQ(seen.all[0].instance_id, order.instance_id);
      if (handle) *handle = seen.all[0].handle;
      created_.insert(seen.all[0].handle);
    }
    return status;
  }

  std::string create(Order &order) {
    std::string handle, message;
    EXPECT_EQ(try_create(order, &handle, &message), COFFER_OK) << message;
    return handle;
  }

  coffer_status try_start(const Order &order, const std::string &handle, std::string *message = nullptr) {
    const SpecView view_of(order, true);
    TestCall call;
    const coffer_status status =
        table_->start(raw(), call, bytes(handle), view_of.deliveries(), view_of.n_deliveries());
    if (message) *message = call.message();
    return status;
  }

  std::string start(Order order) {
    const std::string handle = create(order);
    std::string message;
    EXPECT_EQ(try_start(order, handle, &message), COFFER_OK) << message;
    return handle;
  }

  coffer_status stop(const std::string &handle, std::string_view signal = "", uint64_t timeout_ns = 0) {
    TestCall call;
    return table_->stop(raw(), call, bytes(handle), str(signal), timeout_ns);
  }
  coffer_status destroy(const std::string &handle, bool force = true) {
    TestCall call;
    return table_->destroy(raw(), call, bytes(handle), force);
  }

  Seen inspect(const std::string &handle) {
    TestCall call;
    Sightings seen;
    EXPECT_EQ(table_->inspect(raw(), call, bytes(handle), &Sightings::on_machine, &seen), COFFER_OK)
        << call.message();
    return seen.all.empty() ? Seen{} : seen.all[0];
  }

  Seen wait_for_change(const std::string &handle) {
    TestCall call;
    call.deadline_in(60s);
    Sightings seen;
    EXPECT_EQ(table_->wait(raw(), call, bytes(handle), &Sightings::on_machine, &seen), COFFER_OK)
        << call.message();
    return seen.all.empty() ? Seen{} : seen.all[0];
  }

  static bool ended(const Seen &s) {
    return s.state == COFFER_M_STOPPED || s.state == COFFER_M_FAILED || s.state == COFFER_M_GONE;
  }
  Seen wait_for_end(const std::string &handle) {
    Seen s = inspect(handle);
    while (!ended(s) && !HasFailure()) s = wait_for_change(handle);
    return s;
  }

  Chunks logs(const std::string &handle, coffer_log_query query = {},
              std::function<bool(const Chunks &)> enough = {}) {
    const auto *table = instance_->table<coffer_runtime_logs>(COFFER_RUNTIME_LOGS_ID);
    TestCall call;
    call.deadline_in(60s);
    Chunks chunks{{}, std::move(enough)};
    query.struct_size = sizeof query;
    EXPECT_EQ(table->logs(raw(), call, bytes(handle), &query, &Chunks::on_chunk, &chunks), COFFER_OK)
        << call.message();
    return chunks;
  }

  // Blocks until the Machine has said `word`.
  void wait_for_word(const std::string &handle, const std::string &word) {
    const Chunks said =
        logs(handle, {.flags = 1}, [&](const Chunks &c) { return c.text().find(word) != std::string::npos; });
    ASSERT_THAT(said.text(), HasSubstr(word));
  }

  std::string output_of(Order order, uint32_t stream = 1) {
    const std::string handle = start(std::move(order));
    const Seen end = wait_for_end(handle);
    EXPECT_EQ(end.state, COFFER_M_STOPPED) << end.message << logs(handle).text(2);
    return logs(handle).text(stream);
  }

  std::map<std::string, std::string> environment_of(Order order) {
    order.argv = {"od", "-An", "-v", "-tx1", "/proc/self/environ"};
    return parse_environ(from_od(output_of(std::move(order))));
  }

  ExecResult exec(const std::string &handle, std::vector<std::string> argv, std::string input = "",
                  bool with_input = false, std::string workdir = "") {
    const auto *table = instance_->table<coffer_runtime_exec>(COFFER_RUNTIME_EXEC_ID);
    int in[2] = {-1, -1};
    if (with_input && ::pipe(in) != 0) ADD_FAILURE() << "no pipe";
    std::thread writer([&] {
      if (!with_input) return;
      for (size_t done = 0; done < input.size();) {
        const ssize_t n = ::write(in[1], input.data() + done, input.size() - done);
        if (n <= 0) break;
        done += static_cast<size_t>(n);
      }
      ::close(in[1]);
    });
    std::vector<coffer_str> words;
    for (const std::string &a : argv) words.push_back(str(a));
    struct Context {
      Chunks chunks;
      int in;
    } context{{}, in[0]};
    coffer_exec_io io{};
    io.struct_size = sizeof io;
    io.ctx = &context;
    io.out = [](void *ctx, uint32_t stream, int64_t time_ns, coffer_bytes data) noexcept -> int32_t {
      return Chunks::on_chunk(&static_cast<Context *>(ctx)->chunks, stream, time_ns, data);
    };
    io.in = [](void *ctx, void *buffer, size_t size) noexcept -> int64_t {
      return ::read(static_cast<Context *>(ctx)->in, buffer, size);
    };
    io.in_fd = in[0];
    coffer_exec_spec spec{};
    spec.struct_size = sizeof spec;
    spec.argv = words.data();
    spec.n_argv = words.size();
    spec.workdir = str(workdir);
    TestCall call;
    call.deadline_in(60s);
    ExecResult result{COFFER_UNKNOWN, -1, "", "", ""};
    result.status = table->exec(raw(), call, bytes(handle), &spec, &io, &result.code);
    result.message = call.message();
    result.out = context.chunks.text(1);
    result.err = context.chunks.text(2);
    if (with_input) ::close(in[0]);
    writer.join();
    return result;
  }

  coffer_instance *raw() const { return instance_->raw(); }
  const coffer_runtime *table_ = nullptr;
  std::unique_ptr<OpenInstance> instance_;

 private:
  std::set<std::string> created_;
  int next_ = 0;
};

// ---- life cycle ----
TEST_F(Runtime, MachineGoesFromCreatedToStartedToStoppedToGone) {
  Order order = sh("echo up; exec sleep 1000");
  const std::string handle = create(order);
  EXPECT_EQ(inspect(handle).state, COFFER_M_CREATED);
  ASSERT_EQ(try_start(order, handle), COFFER_OK);
  const Seen started = inspect(handle);
  EXPECT_EQ(started.state, COFFER_M_STARTED);
  EXPECT_EQ(started.name, "conformance");
  EXPECT_GT(started.created_ns, 0);
  EXPECT_GE(started.started_ns, started.created_ns);
  ASSERT_EQ(stop(handle), COFFER_OK);
  const Seen stopped = inspect(handle);
  EXPECT_EQ(stopped.state, COFFER_M_STOPPED);
  EXPECT_GE(stopped.finished_ns, stopped.started_ns);
  ASSERT_EQ(destroy(handle, false), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_GONE);
}

TEST_F(Runtime, CreateStartsNothing) {
  Order order = sh("echo ran");
  const std::string handle = create(order);
  EXPECT_EQ(inspect(handle).state, COFFER_M_CREATED);
  EXPECT_THAT(logs(handle).text(), IsEmpty());
}

TEST_F(Runtime, CreateAgainAnswersTheSameHandle) {
  Order order = sh("exit 0");
  const std::string first = create(order);
  EXPECT_EQ(create(order), first);
  ASSERT_EQ(try_start(order, first), COFFER_OK);
  wait_for_end(first);
  EXPECT_EQ(create(order), first) << "also after the start";
}

TEST_F(Runtime, CreateAgainWithAnotherConfigurationIsRefused) {
  Order order = sh("exit 0");
  create(order);
  Order other = order;
  other.argv.back() = "exit 1";
  std::string message;
  EXPECT_EQ(try_create(other, nullptr, &message), COFFER_ALREADY_EXISTS);
  EXPECT_THAT(message, HasSubstr(order.instance_id));
}

TEST_F(Runtime, StartedTwiceIsRefusedAndTheFirstGoesOn) {
  Order order = sh("exec sleep 1000");
  const std::string handle = start(order);
  order.instance_id = inspect(handle).instance_id;
  EXPECT_EQ(try_start(order, handle), COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STARTED);
  ASSERT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(try_start(order, handle), COFFER_FAILED_PRECONDITION) << "one instance, one start";
}

TEST_F(Runtime, TwoStartsAtOnceGiveOneMachine) {
  if (!(Plugin::under_test().descriptor().flags & COFFER_PLUGIN_CONCURRENT)) GTEST_SKIP() << "not CONCURRENT";
  Order order = sh("echo one; exec sleep 1000");
  const std::string handle = create(order);
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { good += try_start(order, handle) == COFFER_OK; });
  for (std::thread &t : threads) t.join();
  EXPECT_EQ(good, 1);
  ASSERT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(logs(handle).text(1), "one\n");
}

TEST_F(Runtime, StopAndDestroyOfWhatIsGoneAreOk) {
  const std::string handle = start(sh("exec sleep 1000"));
  ASSERT_EQ(destroy(handle), COFFER_OK);
  EXPECT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(destroy(handle), COFFER_OK);
  EXPECT_EQ(destroy(handle, false), COFFER_OK);
}

TEST_F(Runtime, StopOfAMachineThatEndedKeepsHowItEnded) {
  const std::string handle = start(sh("exit 3"));
  ASSERT_EQ(wait_for_end(handle).state, COFFER_M_FAILED);
  EXPECT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_FAILED);
  EXPECT_EQ(inspect(handle).exit_code, 3);
}

TEST_F(Runtime, DestroyWithoutForceStopsFirst) {
  const std::string handle = start(sh("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"));
  wait_for_word(handle, "up");
  ASSERT_EQ(destroy(handle, false), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_GONE);
}

TEST_F(Runtime, HandleSurvivesAReopenedInstance) {
  const std::string handle = start(sh("exec sleep 1000"));
  const std::string full = inspect(handle).handle;
  reopen();
  EXPECT_EQ(inspect(handle).state, COFFER_M_STARTED);
  EXPECT_EQ(inspect(full).state, COFFER_M_STARTED);
  ASSERT_EQ(stop(full), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, MachineStartedByAnotherProcessOutlivesItAndIsOurs) {
  Order order = sh("exec sleep 1000");
  const std::string handle = create(order);
  instance_.reset();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    instance_ = open();
    table_ = instance_->table<coffer_runtime>(COFFER_RUNTIME_ID);
    ::_exit(try_start(order, handle) == COFFER_OK ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  reopen();
  EXPECT_EQ(inspect(handle).state, COFFER_M_STARTED);
  EXPECT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, ForeignHandleIsRefused) {
  for (const std::string handle : {"", "x", "../../etc", "\xff\xfe", "coffer-process 1 ../x"}) {
    TestCall call;
    Sightings seen;
    EXPECT_THAT(table_->inspect(raw(), call, bytes(handle), &Sightings::on_machine, &seen),
                AnyOf(COFFER_INVALID_ARGUMENT, COFFER_NOT_FOUND));
    EXPECT_FALSE(call.message().empty());
  }
}

// ---- ends ----
TEST_F(Runtime, ExitZeroIsStopped) {
  const Seen end = wait_for_end(start(sh("exit 0")));
  EXPECT_EQ(end.state, COFFER_M_STOPPED);
  EXPECT_EQ(end.exit_code, 0);
}

TEST_F(Runtime, ExitThreeIsFailed) {
  const Seen end = wait_for_end(start(sh("exit 3")));
  EXPECT_EQ(end.state, COFFER_M_FAILED);
  EXPECT_EQ(end.exit_code, 3);
  EXPECT_EQ(end.exit_signal, 0);
}

TEST_F(Runtime, EndBySignalIsFailedWithTheSignal) {
  const Seen end = wait_for_end(start(sh("test $$ -gt 1 || exit 99; kill -KILL $$")));
  EXPECT_EQ(end.state, COFFER_M_FAILED);
  if (end.exit_code == 99)
    GTEST_SKIP() << "the app is the first process of a namespace, which no signal from inside ends";
  EXPECT_EQ(end.exit_code, 128 + SIGKILL);
}

TEST_F(Runtime, StoppedByOrderIsStoppedWhateverTheCode) {
  const std::string handle = start(sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"));
  wait_for_word(handle, "up");
  ASSERT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
  EXPECT_EQ(inspect(handle).exit_code, 3);
}

TEST_F(Runtime, StopSendsTheSignalThatWasAskedFor) {
  const std::string handle =
      start(sh("trap 'echo got-usr1; exit 0' USR1; echo up; while :; do sleep 0.1; done"));
  wait_for_word(handle, "up");
  ASSERT_EQ(stop(handle, "SIGUSR1"), COFFER_OK);
  EXPECT_THAT(logs(handle).text(), HasSubstr("got-usr1"));
}

TEST_F(Runtime, StopWithoutASignalTakesThatOfTheSpec) {
  Order order = sh("trap 'echo got-usr1; exit 0' USR1; echo up; while :; do sleep 0.1; done");
  order.stop_signal = "SIGUSR1";
  const std::string handle = start(std::move(order));
  wait_for_word(handle, "up");
  ASSERT_EQ(stop(handle), COFFER_OK);
  EXPECT_THAT(logs(handle).text(), HasSubstr("got-usr1"));
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, DestroyWithoutForceStopsAsTheSpecSays) {
  Order order = sh("trap 'exit 0' USR1; trap '' TERM; echo up; while :; do sleep 0.1; done");
  order.stop_signal = "USR1";
  order.stop_timeout_ns = 60'000'000'000;
  const std::string handle = start(std::move(order));
  wait_for_word(handle, "up");
  const auto before = std::chrono::steady_clock::now();
  ASSERT_EQ(destroy(handle, false), COFFER_OK);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 60s);
  EXPECT_EQ(inspect(handle).state, COFFER_M_GONE);
}

TEST_F(Runtime, StopWithASignalTakesItInsteadOfThatOfTheSpec) {
  Order order = sh("trap 'echo got-usr2; exit 0' USR2; echo up; while :; do sleep 0.1; done");
  order.stop_signal = "SIGUSR1";
  const std::string handle = start(std::move(order));
  wait_for_word(handle, "up");
  ASSERT_EQ(stop(handle, "SIGUSR2"), COFFER_OK);
  EXPECT_THAT(logs(handle).text(), HasSubstr("got-usr2"));
}

TEST_F(Runtime, StopWithoutATimeoutTakesThatOfTheSpec) {
  Order order = sh("trap '' TERM; echo up; while :; do sleep 1000; done");
  order.stop_timeout_ns = 1'000'000'000;
  const std::string handle = start(std::move(order));
  wait_for_word(handle, "up");
  const auto before = std::chrono::steady_clock::now();
  ASSERT_EQ(stop(handle), COFFER_OK);
  const auto took = std::chrono::steady_clock::now() - before;
  EXPECT_GE(took, 990ms);
  EXPECT_LT(took, 9s) << "10 s is the default";
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, SpecOfAnOlderHostIsTakenWithoutWhatItDoesNotKnow) {
  Order order = sh("echo up; exec sleep 1000");
  order.older_host = true;
  const std::string handle = start(std::move(order));
  EXPECT_EQ(stop(handle), COFFER_OK);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, UnknownSignalIsRefusedAndTheMachineGoesOn) {
  const std::string handle = start(sh("exec sleep 1000"));
  EXPECT_EQ(stop(handle, "SIGNOPE"), COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STARTED);
}

TEST_F(Runtime, StopKillsWhatIgnoresTheSignal) {
  const std::string handle = start(sh("trap '' TERM; echo up; while :; do sleep 1000; done"));
  wait_for_word(handle, "up");
  const auto before = std::chrono::steady_clock::now();
  ASSERT_EQ(stop(handle, "SIGTERM", 300'000'000), COFFER_OK);
  EXPECT_GE(std::chrono::steady_clock::now() - before, 290ms);
  EXPECT_EQ(inspect(handle).state, COFFER_M_STOPPED);
}

TEST_F(Runtime, StopPastItsDeadlineSaysSo) {
  const std::string handle = start(sh("trap '' TERM; echo up; while :; do sleep 1000; done"));
  wait_for_word(handle, "up");
  TestCall call;
  call.deadline_in(50ms);
  EXPECT_EQ(table_->stop(raw(), call, bytes(handle), str("SIGTERM"), 60'000'000'000),
            COFFER_DEADLINE_EXCEEDED);
  EXPECT_FALSE(ended(inspect(handle)));
}

// ---- starts that fail ----
TEST_F(Runtime, MissingCommandIsNamedWith127) {
  Order order{.argv = {"no-such-command-here"}};
  const std::string handle = create(order);
  std::string message;
  EXPECT_NE(try_start(order, handle, &message), COFFER_OK);
  EXPECT_THAT(message, HasSubstr("no-such-command-here"));
  const Seen s = inspect(handle);
  EXPECT_EQ(s.state, COFFER_M_FAILED);
  EXPECT_EQ(s.exit_code, 127);
}

TEST_F(Runtime, CommandThatIsNoProgramIsNamedWith126) {
  Order order{.argv = {"/etc/passwd"}};
  const std::string handle = create(order);
  std::string message;
  EXPECT_NE(try_start(order, handle, &message), COFFER_OK);
  EXPECT_THAT(message, HasSubstr("/etc/passwd"));
  EXPECT_EQ(inspect(handle).exit_code, 126);
}

TEST_F(Runtime, TooMuchEnvironmentIsRefusedWithTheRemedyAndWithoutTheValue) {
  Order order = sh("exit 0");
  order.deliveries = {{"HUGE_VALUE", std::string(200'000, 'h')}};
  const std::string handle = create(order);
  std::string message;
  EXPECT_NE(try_start(order, handle, &message), COFFER_OK);
  EXPECT_THAT(message, HasSubstr("file"));
  EXPECT_THAT(message, Not(HasSubstr("hhhh")));
}

TEST_F(Runtime, MissingWorkingDirectoryIsNamed) {
  Order order = sh("exit 0");
  order.workdir = "/no/such/folder";
  const std::string handle = create(order);
  std::string message;
  EXPECT_NE(try_start(order, handle, &message), COFFER_OK);
  EXPECT_THAT(message, HasSubstr("/no/such/folder"));
}

TEST_F(Runtime, DeliveryThatWasNotAnnouncedIsRefusedAndNothingStarts) {
  Order order = sh("exit 0");
  const std::string handle = create(order);
  Order other = order;
  other.deliveries = {{"SURPRISE", "v"}};
  EXPECT_EQ(try_start(other, handle), COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(inspect(handle).state, COFFER_M_CREATED);
}

TEST_F(Runtime, BadOrdersAreRefusedBeforeAnythingIsCreated) {
  const auto refused = [&](Order order, const char *what) {
    std::string message;
    EXPECT_EQ(try_create(order, nullptr, &message), COFFER_INVALID_ARGUMENT) << what;
    EXPECT_FALSE(message.empty()) << what;
    TestCall call;
    Sightings seen;
    EXPECT_EQ(table_->list(raw(), call, nullptr, 0, &Sightings::on_machine, &seen), COFFER_OK);
    for (const Seen &s : seen.all) EXPECT_NE(s.instance_id, order.instance_id) << what;
  };
  for (const char *id : {"..", "a/b", "a b", "\n", ".hidden"}) {
    Order order = sh("exit 0");
    order.instance_id = id;
    refused(order, id);
  }
  for (const char *path : {"relative", "/", "/a/../b", "/a//b", "/a/./b", "/a/", "/proc/x", "/sys/x",
                           "/dev/x", "/.coffer/x", "/a\nb", "/a:b", "/a,b", ""}) {
    Order order = sh("exit 0");
    order.deliveries = {file(path, "v")};
    refused(order, path);
  }
  Order order = sh("exit 0");
  order.deliveries = {file("/" + std::string(5000, 'p'), "v")};
  refused(order, "a path over 4,095 bytes");
  order.deliveries = {file(std::string("/a\0b", 4), "v")};
  refused(order, "a path with NUL");
  order.deliveries = {file("/tmp/coffer-x", "v", 04755)};
  refused(order, "mode 04755");
  order.deliveries = {file("/tmp/coffer-x", "v"), file("/tmp/coffer-x", "w")};
  refused(order, "a path twice");
  order.deliveries = {file("/tmp/coffer-x", "v"), file("/tmp/coffer-x/y", "w")};
  refused(order, "a path below a file");
  order.deliveries = {{"A=B", "v"}};
  refused(order, "a name with =");
  order.deliveries = {};
  order.env = {{"PLAIN", std::string("a\0b", 3)}};
  refused(order, "NUL in a plain value");
  order.env = {};
  order.stop_signal = "SIGNOPE";
  refused(order, "a stop signal that is none");
}

// ---- environment ----
TEST_F(Runtime, SecretValuesArriveByteForByte) {
  std::string odd;
  for (int c = 1; c < 256; ++c) odd += static_cast<char>(c);
  Order order;
  order.deliveries = {{"A_NEWLINE", "one\ntwo\n"},
                      {"B_QUOTES", "'\"`$(id)$HOME\\"},
                      {"C_EQUALS", "=a=b="},
                      {"D_UTF8",
                       "Gr\xc3\xbc\xc3\x9f"
                       "e \xf0\x9f\x94\x91"},
                      {"E_EMPTY", ""},
                      {"F_BLANKS", "  lead and trail\t "},
                      {"G_ALL_BYTES", odd},
                      {"H_LARGE", std::string(131'000 - 8, 'L')},
                      {"I_FORGED", "x\nEVIL=1"},
                      {"_j1", "underscore"}};
  const auto env = environment_of(order);
  for (const Delivery &d : order.deliveries) {
    ASSERT_TRUE(env.contains(d.name)) << d.name;
    EXPECT_EQ(env.at(d.name), d.value) << d.name;
  }
  EXPECT_FALSE(env.contains("EVIL"));
}

TEST_F(Runtime, SecretsWinOverPlainEnvironment) {
  Order order;
  order.env = {{"BOTH", "plain"}, {"PLAIN", "stays"}};
  order.deliveries = {{"BOTH", "secret"}};
  const auto env = environment_of(order);
  EXPECT_EQ(env.at("BOTH"), "secret");
  EXPECT_EQ(env.at("PLAIN"), "stays");
}

TEST_F(Runtime, EnvironmentOfTheCallerStaysOutside) {
  ::setenv("CONFORMANCE_CALLER", "must not be seen", 1);
  const auto env = environment_of({});
  ::unsetenv("CONFORMANCE_CALLER");
  EXPECT_FALSE(env.contains("CONFORMANCE_CALLER"));
  EXPECT_TRUE(env.contains("PATH"));
  for (const auto &[name, value] : env)
    EXPECT_THAT(name, AnyOf(Eq("PATH"), Eq("HOME"), Eq("HOSTNAME"))) << "not asked for";
}

TEST_F(Runtime, PathOfTheMachineFindsTheCommand) {
  Order order{.argv = {"sh", "-c", "exit 0"}};
  order.env = {{"PATH", "/nowhere"}};
  const std::string handle = create(order);
  EXPECT_NE(try_start(order, handle), COFFER_OK);
  EXPECT_EQ(inspect(handle).exit_code, 127);
}

TEST_F(Runtime, StandardInputIsEmpty) { EXPECT_EQ(output_of(sh("cat; echo end")), "end\n"); }

TEST_F(Runtime, WorkingDirectoryIsTaken) {
  Order order = sh("pwd");
  order.workdir = "/usr";
  EXPECT_EQ(output_of(order), "/usr\n");
}

TEST_F(Runtime, SignalsAreAtTheirDefaults) {
  // SigBlk and SigIgn: nothing is blocked or ignored that the app did not ask for.
  EXPECT_THAT(output_of({.argv = {"cat", "/proc/self/status"}}),
              testing::AllOf(HasSubstr("SigBlk:\t0000000000000000"), HasSubstr("SigIgn:\t0000000000000000")));
}

// ---- files ----
class RuntimeFiles : public Runtime {
 protected:
  void SetUp() override {
    Runtime::SetUp();
    TestCall call;
    TestSink health;
    ASSERT_EQ(Plugin::under_test().entry().probe(raw(), call, health), COFFER_OK) << call.message();
    if (!(table_->vias & COFFER_VIA_TMPFS) || health.data().find("tmpfs") == std::string_view::npos)
      GTEST_SKIP() << "no file secrets here, says probe()";
  }
  // A place that exists nowhere; in the Machine of a container and on a host alike.
  std::string place(const std::string &name) const { return (tmp() / name).string(); }
};

TEST_F(RuntimeFiles, FileHasExactBytesModeAndOwner) {
  std::string all;
  for (int i = 0; i < 1000; ++i)
    for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  Order order =
      sh("od -An -v -tx1 \"$F\"; stat -c '%a %u' \"$F\" >&2; test \"$(id -u)\" = \"$(stat -c %u \"$F\")\"");
  order.env = {{"F", place("secret")}};
  order.deliveries = {file(place("secret"), all, 0440)};
  const std::string handle = start(order);
  EXPECT_EQ(wait_for_end(handle).exit_code, 0);
  EXPECT_TRUE(from_od(logs(handle).text(1)) == all) << logs(handle).text(2);
  EXPECT_THAT(logs(handle).text(2), HasSubstr("440 "));
}

TEST_F(RuntimeFiles, EmptyFileAndSeveralFilesAreDelivered) {
  Order order = sh("cd \"$D\" && test -f empty && test ! -s empty && cat a sub/dir/b");
  order.env = {{"D", tmp().string()}};
  order.deliveries = {file(place("empty"), ""), file(place("sub/dir/b"), "second\n"),
                      file(place("a"), "first\n")};
  EXPECT_EQ(output_of(order), "first\nsecond\n");
}

TEST_F(RuntimeFiles, FileCannotBeWrittenByTheApp) {
  Order order =
      sh("echo x >> \"$F\" 2>/dev/null && echo written; chmod 0777 \"$F\" 2>/dev/null && echo changed; "
         "cat \"$F\"");
  order.env = {{"F", place("secret")}};
  order.deliveries = {file(place("secret"), "kept\n", 0600)};
  EXPECT_EQ(output_of(order), "kept\n");
}

TEST_F(RuntimeFiles, FileIsNotVisibleOutsideTheMachine) {
  const Canary canary;
  std::string value(canary.size(), 0);
  canary.reveal(value.data());
  Order order = sh("echo up; exec sleep 1000");
  order.deliveries = {file(place("secret"), value)};
  const std::string handle = start(order);
  wait_for_word(handle, "up");
  EXPECT_THAT(canary.files_below(tmp()), IsEmpty());
}

TEST_F(RuntimeFiles, ExistingFileIsCoveredAndComesBack) {
  std::ofstream(place("config")) << "from the host\n";
  if (image == "host") {
    Order order = sh("cat \"$F\"");
    order.env = {{"F", place("config")}};
    order.deliveries = {file(place("config"), "secret\n")};
    EXPECT_EQ(output_of(order), "secret\n");
  }
  std::string line;
  std::getline(std::ifstream(place("config")), line);
  EXPECT_EQ(line, "from the host");
}

// ---- where values must not be ----
// True when the arguments of some process of the host are what `wanted` looks for.
bool some_process_has(const std::function<bool(const std::string &)> &wanted) {
  for (const auto &entry : std::filesystem::directory_iterator("/proc")) {
    std::FILE *in = std::fopen((entry.path() / "cmdline").c_str(), "re");
    if (!in) continue;
    std::string text;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, in)) > 0;) text.append(buffer, n);
    std::fclose(in);
    if (!text.empty() && wanted(text)) return true;
  }
  return false;
}
bool in_some_cmdline(const Canary &canary) {
  return some_process_has([&](const std::string &text) { return canary.within(text); });
}
bool in_some_cmdline(const std::string &word) {
  return some_process_has([&](const std::string &text) { return text.find(word) != std::string::npos; });
}

TEST_F(Runtime, ValuesAreInNoFileLogOrArgument) {
  const Canary canary(24), control(24);
  const auto hex = [](const Canary &c) {
    std::string raw(c.size(), 0), out;
    c.reveal(raw.data());
    char byte[3];
    for (const unsigned char b : raw) out.append(byte, std::snprintf(byte, sizeof byte, "%02x", b));
    return out;
  };
  Order order = sh("echo up; exec sleep 1000");
  order.deliveries = {{"CANARY", hex(canary)}};
  order.argv.push_back(hex(control));  // becomes $0
  order.argv[2] = "echo up; while :; do sleep 1000; done";
  const std::string handle = start(order);
  wait_for_word(handle, "up");
  EXPECT_TRUE(in_some_cmdline(control)) << "the search finds nothing, so it proves nothing";
  std::ofstream(tmp() / "control") << hex(control);
  EXPECT_THAT(control.files_below(tmp()), Not(IsEmpty())) << "the search finds nothing, so it proves nothing";
  EXPECT_FALSE(in_some_cmdline(canary));
  EXPECT_THAT(canary.files_below(tmp()), IsEmpty());
  ASSERT_EQ(exec(handle, {"true"}).code, 0);
  ASSERT_EQ(stop(handle, "SIGKILL"), COFFER_OK);
  EXPECT_THAT(canary.files_below(tmp()), IsEmpty());
  EXPECT_EQ(canary.leak_in_texts(), "");
}

TEST_F(Runtime, NothingOfADestroyedMachineIsLeft) {
  const std::string handle = start(sh("echo up; exec sleep 1000"));
  const std::string id = inspect(handle).instance_id;
  wait_for_word(handle, "up");
  ASSERT_EQ(destroy(handle), COFFER_OK);
  for (const auto &entry : std::filesystem::recursive_directory_iterator(tmp()))
    EXPECT_THAT(entry.path().string(), Not(HasSubstr(id)));
  TestCall call;
  Sightings seen;
  ASSERT_EQ(table_->list(raw(), call, nullptr, 0, &Sightings::on_machine, &seen), COFFER_OK);
  for (const Seen &s : seen.all) EXPECT_NE(s.instance_id, id);
}

TEST_F(Runtime, DescendantsEndWithTheMachine) {
  // A grandchild in a session of its own that ignores every polite request; known by what it sleeps.
  const std::string mark = "87654" + std::to_string(::getpid());
  const std::string child =
      "(setsid sh -c 'trap \"\" TERM HUP; echo child; while :; do sleep " + mark + "; done' &); ";
  const std::string stopped = start(sh(child + "while :; do sleep 1000; done"));
  wait_for_word(stopped, "child");
  EXPECT_TRUE(in_some_cmdline(mark)) << "the search finds nothing, so it proves nothing";
  ASSERT_EQ(stop(stopped, "SIGTERM", 200'000'000), COFFER_OK);
  EXPECT_FALSE(in_some_cmdline(mark)) << "after an order to stop";

  const std::string ended_itself = start(sh(child + "sleep 0.2; exit 0"));
  EXPECT_EQ(wait_for_end(ended_itself).state, COFFER_M_STOPPED);
  EXPECT_FALSE(in_some_cmdline(mark)) << "after an end of its own";
}

// ---- list and wait ----
TEST_F(Runtime, ListFindsMachinesByAllLabels) {
  Order a = sh("exit 0"), b = sh("exit 0");
  a.labels = {{"app", "one"}, {"kind", "x"}};
  b.labels = {{"app", "one"}, {"kind", "y=z"}};
  create(a);
  create(b);
  const auto listed = [&](std::vector<std::pair<std::string, std::string>> labels) {
    std::vector<coffer_pair> pairs;
    for (const auto &[key, value] : labels) pairs.push_back({str(key), bytes(value)});
    TestCall call;
    Sightings seen;
    EXPECT_EQ(table_->list(raw(), call, pairs.data(), pairs.size(), &Sightings::on_machine, &seen),
              COFFER_OK);
    std::set<std::string> ids;
    for (const Seen &s : seen.all) ids.insert(s.instance_id);
    return ids;
  };
  using Ids = std::set<std::string>;
  EXPECT_EQ(listed({{"app", "one"}}), (Ids{a.instance_id, b.instance_id}));
  EXPECT_EQ(listed({{"app", "one"}, {"kind", "y=z"}}), Ids{b.instance_id});
  EXPECT_EQ(listed({{"app", "two"}}), Ids{});
  EXPECT_EQ(listed({{"kind", "y"}}), Ids{});
}

TEST_F(Runtime, WaitReturnsWhenTheMachineEnds) {
  const std::string handle = start(sh("echo up; sleep 0.2; exit 4"));
  const Seen s = wait_for_change(handle);
  EXPECT_EQ(s.state, COFFER_M_FAILED);
  EXPECT_EQ(s.exit_code, 4);
}

TEST_F(Runtime, WaitForWhatHasEndedReturnsAtOnce) {
  const std::string handle = start(sh("exit 0"));
  wait_for_end(handle);
  EXPECT_EQ(wait_for_change(handle).state, COFFER_M_STOPPED);
  destroy(handle);
  EXPECT_EQ(wait_for_change(handle).state, COFFER_M_GONE);
}

TEST_F(Runtime, WaitEndsWhenItIsCancelled) {
  const std::string handle = start(sh("exec sleep 1000"));
  TestCall call;
  call.cancellable();
  Sightings seen;
  coffer_status status = COFFER_OK;
  std::thread waiter(
      [&] { status = table_->wait(raw(), call, bytes(handle), &Sightings::on_machine, &seen); });
  call.cancel();
  waiter.join();
  EXPECT_EQ(status, COFFER_CANCELLED);
}

TEST_F(Runtime, WaitEndsAtItsDeadline) {
  const std::string handle = start(sh("exec sleep 1000"));
  TestCall call;
  call.deadline_in(50ms);
  Sightings seen;
  EXPECT_EQ(table_->wait(raw(), call, bytes(handle), &Sightings::on_machine, &seen),
            COFFER_DEADLINE_EXCEEDED);
}

// ---- logs ----
TEST_F(Runtime, LogsKeepStreamsApart) {
  const std::string handle = start(sh("echo out; echo err >&2"));
  wait_for_end(handle);
  EXPECT_EQ(logs(handle, {.flags = 2}).text(), "out\n");
  EXPECT_EQ(logs(handle, {.flags = 4}).text(), "err\n");
  EXPECT_EQ(logs(handle).text(1), "out\n");
  EXPECT_EQ(logs(handle).text(2), "err\n");
}

TEST_F(Runtime, LogsTailGivesTheLastLines) {
  const std::string handle = start(sh("i=0; while [ $i -lt 50 ]; do echo line$i; i=$((i+1)); done"));
  wait_for_end(handle);
  EXPECT_EQ(logs(handle, {.tail = 3}).text(), "line47\nline48\nline49\n");
  EXPECT_EQ(logs(handle, {.tail = 1}).text(), "line49\n");
  EXPECT_THAT(logs(handle, {.tail = 1000}).text(), testing::StartsWith("line0\n"));
}

TEST_F(Runtime, LogsSinceLeavesOutWhatIsOlder) {
  const std::string handle = start(sh("echo early; sleep 0.1; echo late"));
  wait_for_end(handle);
  const Chunks all = logs(handle);
  ASSERT_GE(all.all.size(), 2u);
  EXPECT_LT(all.all.front().time_ns, all.all.back().time_ns);
  EXPECT_EQ(logs(handle, {.since_ns = all.all.back().time_ns}).text(), "late\n");
}

TEST_F(Runtime, LogsFollowTillTheMachineEnds) {
  const std::string handle = start(sh("for i in 1 2 3 4 5; do echo $i; sleep 0.05; done"));
  EXPECT_EQ(logs(handle, {.flags = 1}).text(), "1\n2\n3\n4\n5\n");
}

TEST_F(Runtime, LogsFollowEndsWhenItIsCancelled) {
  const std::string handle = start(sh("echo up; exec sleep 1000"));
  wait_for_word(handle, "up");
  const auto *table = instance_->table<coffer_runtime_logs>(COFFER_RUNTIME_LOGS_ID);
  TestCall call;
  call.cancellable();
  coffer_log_query query{};
  query.struct_size = sizeof query;
  query.flags = 1;
  Chunks chunks;
  coffer_status status = COFFER_OK;
  std::thread follower(
      [&] { status = table->logs(raw(), call, bytes(handle), &query, &Chunks::on_chunk, &chunks); });
  call.cancel();
  follower.join();
  EXPECT_EQ(status, COFFER_CANCELLED);
}

TEST_F(Runtime, LogsOfAnUnendedLineAreNotLost) {
  const std::string handle = start(sh("printf 'no newline'"));
  wait_for_end(handle);
  EXPECT_EQ(logs(handle).text(), "no newline");
  EXPECT_EQ(logs(handle, {.tail = 1}).text(), "no newline");
}

// ---- exec ----
TEST_F(Runtime, ExecHasTheEnvironmentOfTheApp) {
  Order order = sh("echo up; exec sleep 1000");
  order.env = {{"PLAIN", "p"}};
  order.deliveries = {{"SECRET", "multi\nline=\x01"}};
  const std::string handle = start(order);
  const ExecResult r = exec(handle, {"od", "-An", "-v", "-tx1", "/proc/self/environ"});
  ASSERT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_EQ(r.code, 0) << r.err;
  const auto env = parse_environ(from_od(r.out));
  EXPECT_EQ(env.at("SECRET"), "multi\nline=\x01");
  EXPECT_EQ(env.at("PLAIN"), "p");
}

TEST_F(Runtime, ExecAnswersTheExitCode) {
  const std::string handle = start(sh("exec sleep 1000"));
  EXPECT_EQ(exec(handle, {"sh", "-c", "exit 7"}).code, 7);
  EXPECT_EQ(exec(handle, {"sh", "-c", "kill -KILL $$"}).code, 137);
  EXPECT_EQ(exec(handle, {"no-such-command-here"}).code, 127);
  EXPECT_EQ(exec(handle, {"/etc/passwd"}).code, 126);
}

TEST_F(Runtime, ExecKeepsStreamsApartAndTakesAWorkingDirectory) {
  const std::string handle = start(sh("exec sleep 1000"));
  const ExecResult r = exec(handle, {"sh", "-c", "pwd; echo err >&2"}, "", false, "/usr");
  EXPECT_EQ(r.out, "/usr\n");
  EXPECT_EQ(r.err, "err\n");
}

TEST_F(Runtime, ExecPassesInputToItsEnd) {
  const std::string handle = start(sh("exec sleep 1000"));
  std::string input;
  for (int i = 0; i < 300'000; ++i) input += static_cast<char>('a' + i % 26);
  EXPECT_TRUE(exec(handle, {"cat"}, input, true).out == input);
  EXPECT_EQ(exec(handle, {"cat"}).out, "") << "without input there is an end at once";
}

TEST_F(Runtime, ExecGivesBackBigOutput) {
  const std::string handle = start(sh("exec sleep 1000"));
  const ExecResult r = exec(handle, {"sh", "-c", "od -v -tx1 /dev/zero | head -c 3000000"});
  EXPECT_EQ(r.code, 0);
  EXPECT_EQ(r.out.size(), 3'000'000u);
}

TEST_F(Runtime, ExecReturnsThoughNobodyEndsItsInput) {
  const std::string handle = start(sh("exec sleep 1000"));
  int in[2];
  ASSERT_EQ(::pipe(in), 0);
  const coffer_str words[] = {str("true")};
  coffer_exec_spec spec{};
  spec.struct_size = sizeof spec;
  spec.argv = words;
  spec.n_argv = 1;
  coffer_exec_io io{};
  io.struct_size = sizeof io;
  io.ctx = in;
  io.in = [](void *ctx, void *buffer, size_t size) noexcept -> int64_t {
    return ::read(static_cast<int *>(ctx)[0], buffer, size);
  };
  io.in_fd = in[0];
  int32_t code = -1;
  TestCall call;
  const auto *table = instance_->table<coffer_runtime_exec>(COFFER_RUNTIME_EXEC_ID);
  EXPECT_EQ(table->exec(raw(), call, bytes(handle), &spec, &io, &code), COFFER_OK) << call.message();
  EXPECT_EQ(code, 0);
  ::close(in[0]);
  ::close(in[1]);
}

TEST_F(Runtime, ExecThatIsCancelledEndsTheCommand) {
  const std::string handle = start(sh("exec sleep 1000"));
  const coffer_str words[] = {str("sh"), str("-c"), str("echo up; sleep 1000")};
  coffer_exec_spec spec{};
  spec.struct_size = sizeof spec;
  spec.argv = words;
  spec.n_argv = 3;
  TestCall call;
  call.cancellable();
  Chunks chunks;
  chunks.enough = [&](const Chunks &) {
    call.cancel();
    return false;
  };
  coffer_exec_io io{};
  io.struct_size = sizeof io;
  io.ctx = &chunks;
  io.out = &Chunks::on_chunk;
  io.in_fd = -1;
  int32_t code = -1;
  const auto *table = instance_->table<coffer_runtime_exec>(COFFER_RUNTIME_EXEC_ID);
  EXPECT_EQ(table->exec(raw(), call, bytes(handle), &spec, &io, &code), COFFER_CANCELLED);
}

TEST_F(Runtime, ExecNeedsAStartedMachine) {
  Order order = sh("exit 0");
  const std::string handle = create(order);
  EXPECT_EQ(exec(handle, {"true"}).status, COFFER_FAILED_PRECONDITION);
  ASSERT_EQ(try_start(order, handle), COFFER_OK);
  wait_for_end(handle);
  EXPECT_EQ(exec(handle, {"true"}).status, COFFER_FAILED_PRECONDITION);
}

TEST_F(RuntimeFiles, ExecSeesTheFilesOfTheMachine) {
  Order order = sh("echo up; exec sleep 1000");
  order.deliveries = {file(place("secret"), "for the app\n")};
  const std::string handle = start(order);
  wait_for_word(handle, "up");
  const ExecResult r = exec(handle, {"cat", place("secret")});
  EXPECT_EQ(r.out, "for the app\n") << r.err;
}

// ---- probes: coffer.runtime.probe/1 ----
constexpr const char *kSilent = "/cgi-bin/silent";

// What --http describes.
[[noreturn]] void serve_http(int port) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0), on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
      ::listen(listener, 16) != 0)
    std::_Exit(1);
  for (;;) {
    const int fd = ::accept(listener, nullptr, nullptr);
    std::string request;
    char buffer[4096];
    for (ssize_t n;
         request.find("\r\n\r\n") == std::string::npos && (n = ::read(fd, buffer, sizeof buffer)) > 0;)
      request.append(buffer, static_cast<size_t>(n));
    if (request.starts_with(std::string("GET ") + kSilent)) continue;  // left open
    const std::string answer = request.starts_with("GET / ") ? "HTTP/1.1 200 OK\r\n\r\nbody-of-the-app\n"
                                                             : "HTTP/1.1 404 body-of-the-app\r\n\r\n";
    (void)!::write(fd, answer.data(), answer.size());
    ::close(fd);
  }
}

class RuntimeProbe : public Runtime {
 protected:
  void SetUp() override {
    Runtime::SetUp();
    probe_ = instance_->table<coffer_runtime_probe>(COFFER_RUNTIME_PROBE_ID);
    if (!probe_) GTEST_SKIP() << "the plugin tries no checks";
    // A port that nobody has now.
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof address;
    ::bind(fd, reinterpret_cast<sockaddr *>(&address), size);
    ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size);
    ::close(fd);
    port_ = ntohs(address.sin_port);
  }
  std::string server() {
    std::string command = http_command;
    if (command.empty())
      command = "exec '" + std::filesystem::canonical("/proc/self/exe").string() + "' --serve=$PORT";
    Order order = sh(command);
    order.env = {{"PORT", std::to_string(port_)}};
    return start(order);
  }
  struct Tried {
    coffer_status status;
    std::string message;
  };
  Tried probe(const std::string &handle, std::string_view path = "", std::string_view method = "GET",
              std::chrono::nanoseconds patience = 30s) {
    coffer_probe_spec spec{};
    spec.struct_size = sizeof spec;
    spec.kind = path.empty() ? COFFER_PROBE_TCP : COFFER_PROBE_HTTP;
    spec.port = port_;
    if (!path.empty()) spec.path = str(path), spec.method = str(method);
    TestCall call;
    call.deadline_in(patience);
    const coffer_status status = probe_->probe(raw(), call, bytes(handle), &spec);
    return {status, call.message()};
  }
  // Again and again, as a roll-out does.
  Tried until_passed(const std::string &handle, std::string_view path = "") {
    const auto end = std::chrono::steady_clock::now() + 30s;
    Tried t = probe(handle, path);
    while (t.status == COFFER_FAILED_PRECONDITION && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(20ms);
      t = probe(handle, path);
    }
    return t;
  }
  uint32_t port_ = 0;
  const coffer_runtime_probe *probe_ = nullptr;
};

TEST_F(RuntimeProbe, OfAPortPassesOnceTheAppListens) {
  const std::string handle = server();
  const Tried t = until_passed(handle);
  EXPECT_EQ(t.status, COFFER_OK) << t.message;
}

TEST_F(RuntimeProbe, OfAPortWithoutListenerIsNotPassed) {
  const Tried t = probe(start(sh("exec sleep 1000")));
  EXPECT_EQ(t.status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(t.message, "connection refused");
}

TEST_F(RuntimeProbe, OfAPathPassesByItsStatusAndQuotesNothing) {
  const std::string handle = server();
  const Tried found = until_passed(handle, "/");
  EXPECT_EQ(found.status, COFFER_OK) << found.message;
  const Tried missing = probe(handle, "/missing");
  EXPECT_EQ(missing.status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(missing.message, "HTTP status 404");
}

TEST_F(RuntimeProbe, NeedsAStartedMachine) {
  Order order = sh("exit 0");
  const std::string handle = create(order);
  EXPECT_EQ(probe(handle).status, COFFER_FAILED_PRECONDITION);
  ASSERT_EQ(try_start(order, handle), COFFER_OK);
  wait_for_end(handle);
  EXPECT_EQ(probe(handle).status, COFFER_FAILED_PRECONDITION);
  ASSERT_EQ(destroy(handle), COFFER_OK);
  EXPECT_EQ(probe(handle).status, COFFER_NOT_FOUND);
}

TEST_F(RuntimeProbe, RefusesWhatIsNoRequest) {
  const std::string handle = start(sh("exec sleep 1000"));
  for (const char *path : {"health", "/a b", "/a\r\nX: y"})
    EXPECT_EQ(probe(handle, path).status, COFFER_INVALID_ARGUMENT) << path;
  for (const char *method : {"", "get", "GET /", "GET\r\n"})
    EXPECT_EQ(probe(handle, "/", method).status, COFFER_INVALID_ARGUMENT) << method;
  port_ = 0;
  EXPECT_EQ(probe(handle).status, COFFER_INVALID_ARGUMENT);
  port_ = 65536;
  EXPECT_EQ(probe(handle).status, COFFER_INVALID_ARGUMENT);
}

TEST_F(RuntimeProbe, OfAnAppThatDoesNotAnswerEndsAtTheDeadline) {
  const std::string handle = server();
  ASSERT_EQ(until_passed(handle, "/").status, COFFER_OK);
  const auto begin = std::chrono::steady_clock::now();
  const Tried t = probe(handle, kSilent, "GET", 1500ms);
  EXPECT_EQ(t.status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(t.message, "no answer in time");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 20s);
}

TEST_F(RuntimeProbe, EndsWhenItIsCancelled) {
  const std::string handle = server();
  ASSERT_EQ(until_passed(handle, "/").status, COFFER_OK);
  coffer_probe_spec spec{};
  spec.struct_size = sizeof spec;
  spec.kind = COFFER_PROBE_HTTP;
  spec.port = port_;
  spec.method = str("GET");
  spec.path = str(kSilent);
  TestCall call;
  call.cancellable();
  call.deadline_in(60s);
  coffer_status status = COFFER_OK;
  std::thread prober([&] { status = probe_->probe(raw(), call, bytes(handle), &spec); });
  std::this_thread::sleep_for(100ms);  // mostly it waits for the answer by then
  call.cancel();
  prober.join();
  EXPECT_EQ(status, COFFER_CANCELLED);
}

// ---- new values in files: coffer.runtime.update/1 ----
class RuntimeUpdate : public RuntimeFiles {
 protected:
  void SetUp() override {
    RuntimeFiles::SetUp();
    if (IsSkipped()) return;
    update_ = instance_->table<coffer_runtime_update>(COFFER_RUNTIME_UPDATE_ID);
    if (!update_) GTEST_SKIP() << "the plugin replaces no files";
  }
  // Two files in one folder of their own.
  std::vector<Delivery> pair(const std::string &a, const std::string &b) const {
    return {in_folder("pair/a", a), in_folder("pair/b", b)};
  }
  Delivery in_folder(const std::string &name, const std::string &value) const {
    Delivery d = file(place(name), value, 0440);
    d.flags = COFFER_DLV_FOLDER;
    return d;
  }
  // What runs with the two files: $D is their folder.
  Order order(const std::string &script, std::vector<Delivery> deliveries) const {
    Order o = sh(script);
    o.env = {{"D", place("pair")}};
    o.deliveries = std::move(deliveries);
    return o;
  }
  coffer_status update(const std::string &handle, const std::vector<Delivery> &deliveries,
                       std::string_view signal = "", std::string *message = nullptr) {
    Order with;
    with.deliveries = deliveries;
    const SpecView view_of(with, true);
    TestCall call;
    call.deadline_in(60s);
    const coffer_status status = update_->update(raw(), call, bytes(handle), view_of.deliveries(),
                                                 view_of.n_deliveries(), str(signal));
    if (message) *message = call.message();
    return status;
  }
  const coffer_runtime_update *update_ = nullptr;
};

TEST_F(RuntimeUpdate, TheAppReadsTheNewFilesAfterItsSignal) {
  const std::string handle =
      start(order("show() { cat \"$D/a\" \"$D/b\"; echo \"$1\"; }; trap 'show changed' HUP; show up; "
                  "while :; do sleep 0.02; done",
                  pair("old-a\n", "old-b\n")));
  wait_for_word(handle, "up\n");
  std::string message;
  ASSERT_EQ(update(handle, pair("new-a\n", ""), "SIGHUP", &message), COFFER_OK) << message;
  wait_for_word(handle, "changed\n");
  EXPECT_EQ(logs(handle).text(1), "old-a\nold-b\nup\nnew-a\nchanged\n");
  for (int i = 0; i < 5; ++i)  // the place does not wear out
    ASSERT_EQ(update(handle, pair(std::to_string(i), std::string(500'000, 'x'))), COFFER_OK);
  const ExecResult r = exec(handle, {"sh", "-c", "cat \"$D/a\"; wc -c < \"$D/b\"; ls -A \"$D\" | wc -l"});
  EXPECT_EQ(r.out, "4500000\n4\n") << "nothing but ..N, ..data, a and b; " << r.err;
}

TEST_F(RuntimeUpdate, WithoutASignalTheAppGetsNone) {
  const std::string handle =
      start(order("trap 'echo got; exit 1' HUP; echo up; while :; do sleep 0.02; done", pair("old", "old")));
  wait_for_word(handle, "up\n");
  ASSERT_EQ(update(handle, pair("new", "new")), COFFER_OK);
  EXPECT_EQ(exec(handle, {"sh", "-c", "cat \"$D/a\" \"$D/b\""}).out, "newnew");
  EXPECT_EQ(inspect(handle).state, COFFER_M_STARTED);
}

TEST_F(RuntimeUpdate, WhoResolvesTheLinkOnceReadsOneGeneration) {
  // A folder that is removed while it is read yields less than a pair, which does not count.
  const std::string handle =
      start(order("trap 'echo pairs $pairs; exit 0' TERM; pairs=0; echo up; while :; do"
                  "  cd -P \"$D/..data\" 2>/dev/null || continue; a=; b=;"
                  "  [ -r a ] && read -r a < a; [ -r b ] && read -r b < b;"
                  "  [ -n \"$a\" ] && [ -n \"$b\" ] || continue; pairs=$((pairs + 1));"
                  "  [ \"$a\" = \"$b\" ] || echo \"torn $a $b\"; done 2>/dev/null",
                  pair("0\n", "0\n")));
  wait_for_word(handle, "up\n");
  for (int i = 1; i <= 50; ++i) {
    const std::string generation = std::to_string(i) + "\n";
    ASSERT_EQ(update(handle, pair(generation, generation)), COFFER_OK);
  }
  ASSERT_EQ(stop(handle, "SIGTERM", 10'000'000'000), COFFER_OK);
  const std::string said = logs(handle).text(1);
  EXPECT_THAT(said, Not(HasSubstr("torn")));
  EXPECT_THAT(said, HasSubstr("pairs "));
  EXPECT_THAT(said, Not(HasSubstr("pairs 0\n"))) << "nothing was read, so this shows nothing";
}

TEST_F(RuntimeUpdate, FolderHoldsItsFilesAloneAndTheAppCannotChangeIt) {
  const std::string handle = start(
      order("for f in a b; do echo x >> \"$D/$f\" && echo written; rm -f \"$D/$f\" && echo removed; done;"
            "echo x > \"$D/c\" && echo made; ln -sfn /etc \"$D/..data\" && echo led astray;"
            "cat \"$D/a\"; echo up >&2; exec sleep 1000",
            pair("kept\n", "b")));
  wait_for_word(handle, "up\n");
  EXPECT_EQ(logs(handle).text(1), "kept\n");
  ASSERT_EQ(update(handle, pair("new\n", "b")), COFFER_OK);
  const ExecResult r = exec(handle, {"sh", "-c", "stat -L -c %a \"$D/a\"; rm -f \"$D/a\"; cat \"$D/a\""});
  EXPECT_EQ(r.out, "440\nnew\n") << "after a change as before it";
}

TEST_F(RuntimeUpdate, OtherFilesThanThoseOfAFolderAreRefusedAndNothingChanges) {
  std::vector<Delivery> all = pair("old", "old");
  all.push_back(file(place("alone"), "old"));
  const std::string handle = start(order("echo up; exec sleep 1000", all));
  const std::vector<Delivery> both = pair("new", "new");
  const std::vector<std::vector<Delivery>> wrong = {
      {},
      {both[0]},                                       // half of a folder
      {both[0], both[0]},                              // one twice
      {both[0], both[1], in_folder("pair/c", "new")},  // nobody was told of it
      {both[0], both[1], in_folder("other/a", "new")},
      {both[0], both[1], file(place("alone"), "new")}};
  for (size_t i = 0; i < wrong.size(); ++i)
    EXPECT_EQ(update(handle, wrong[i], "SIGKILL"), COFFER_INVALID_ARGUMENT) << "case " << i;
  EXPECT_EQ(update(handle, both, "SIGNONE"), COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(exec(handle, {"sh", "-c", "cat \"$D/a\" \"$D/b\" \"$D/../alone\""}).out, "oldoldold");
}

TEST_F(RuntimeUpdate, CreateRefusesFoldersThatAreNotWhole) {
  const Delivery a = in_folder("pair/a", "");
  for (const Delivery &other :
       {file(place("pair/b"), ""), in_folder("pair/sub/b", ""), in_folder("pair/..data", ""),
        file(place("pair/sub/b"), ""), in_folder("../../../../../../../../a", "")}) {
    Order o = order("exit 0", {a, other});
    EXPECT_EQ(try_create(o), COFFER_INVALID_ARGUMENT) << other.name;
  }
}

TEST_F(RuntimeUpdate, NeedsAStartedMachine) {
  Order o = order("exit 0", pair("old", "old"));
  const std::string handle = create(o);
  EXPECT_EQ(update(handle, pair("new", "new")), COFFER_FAILED_PRECONDITION);
  ASSERT_EQ(try_start(o, handle), COFFER_OK);
  wait_for_end(handle);
  EXPECT_EQ(update(handle, pair("new", "new")), COFFER_FAILED_PRECONDITION);
  ASSERT_EQ(destroy(handle), COFFER_OK);
  EXPECT_EQ(update(handle, pair("new", "new")), COFFER_NOT_FOUND);
}

// ---- cancellation ----
TEST_F(Runtime, CallThatIsCancelledBeforehandChangesNothing) {
  Order order = sh("exec sleep 1000");
  const std::string handle = create(order);
  const SpecView view_of(order, true);
  TestCall call;
  call.cancellable();
  call.cancel();
  EXPECT_THAT(table_->wait(raw(), call, bytes(handle), &Sightings::on_machine, nullptr),
              Eq(COFFER_CANCELLED));
  EXPECT_EQ(inspect(handle).state, COFFER_M_CREATED);
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--image=", 8) == 0)
      coffer::conformance::image = argv[i] + 8;
    else if (std::strncmp(argv[i], "--http=", 7) == 0)
      coffer::conformance::http_command = argv[i] + 7;
    else if (std::strncmp(argv[i], "--serve=", 8) == 0)
      coffer::conformance::serve_http(std::atoi(argv[i] + 8));
    else
      argv[kept++] = argv[i];
  }
  argv[kept] = nullptr;
  return coffer::conformance::run_suite(kept, argv, COFFER_RUNTIME_ID);
}
