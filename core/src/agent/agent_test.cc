// The agent over a runtime of files: the order of a boot, each step failing, leases, and a key service that
// lies.
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "coffer/agent/agent.h"
#include "coffer/base/process.h"
#include "coffer/crypto/hpke_sender.h"
#include "fakes.h"
#include "state.h"

namespace coffer {
namespace {

using fakes::calls;
using fakes::fail_next;
using fakes::Fails;
using fakes::ok;
using fakes::position;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::SizeIs;

constexpr std::string_view kMachine = "0123456789abcd";
const std::string kDead = "00000000-0000-0000-0000-000000000000:1:1";  // of another boot

template <size_t N>
std::array<uint8_t, N> filled(uint8_t byte) {
  std::array<uint8_t, N> a;
  a.fill(byte);
  return a;
}

// Answers what it is asked for from a list, and lies on demand.  It notes its calls where the runtime notes
// its.
class FakeKeys : public BootKeys {
 public:
  explicit FakeKeys(std::filesystem::path folder) : folder_(std::move(folder)) {}

  Result<void> enrol(ByteSpan) override { return {}; }
  Result<Bytes> token(ByteSpan signed_request) override {
    fakes::note_call(folder_, "token");
    COFFER_TRY(const ByteSpan payload, open_signed(signed_request, kTokenRequestLabel, {&host_, 1}));
    COFFER_TRY(const TokenRequest request, decode_token_request(payload));
    if (token_fails) return fail(ErrorCode::kPermissionDenied, "the grant was revoked");
    last_instance = request.instance_id;
    return Bytes{1, 2, 3};
  }
  Result<Bytes> open(ByteSpan signed_request) override {
    fakes::note_call(folder_, "open");
    if (before_open) before_open();
    COFFER_TRY(const ByteSpan payload, open_signed(signed_request, kOpenRequestLabel, {&host_, 1}));
    COFFER_TRY(const OpenRequest request, decode_open_request(payload));
    if (open_fails > 0 && open_fails-- > 0) return fail(open_error, "told to fail");
    std::vector<OpenedSecret> opened;
    for (const auto &[name, record] : request.records)
      opened.push_back({name, SecretBytes::copy_of(as_bytes(values.at(name)))});
    if (lie == "fewer") opened.pop_back();
    if (lie == "another name") opened.front().name = "ANOTHER";
    OpenAnswer answer;
    answer.request = lie == "another request" ? Hash{} : sha256(signed_request);
    auto sender = HpkeSender::setup(request.ephemeral, answer_info(answer.request));
    answer.enc = sender->enc();
    answer.ciphertext = *sender->seal(answer.request, encode_opened(opened).reveal());
    if (lie == "flipped bit") answer.ciphertext.front() ^= 1;
    return sign(lie == "another signer" ? stranger_ : identity, kOpenAnswerLabel, encode(answer));
  }

  std::map<std::string, std::string> values;
  const SigningKey identity = *SigningKey::from_seed(filled<32>(2));
  std::string lie, last_instance;
  bool token_fails = false;
  int open_fails = 0;
  ErrorCode open_error = ErrorCode::kUnavailable;
  std::function<void()> before_open;

 private:
  std::filesystem::path folder_;
  const SigningKey stranger_ = *SigningKey::from_seed(filled<32>(9));
  const PublicKey host_ = SigningKey::from_seed(filled<32>(3))->public_key();
};

// One host.  All of it can be made again on the same folder by another process.
class Host {
 public:
  explicit Host(const std::filesystem::path &at)
      : folder(at), machines(at / "runtime"), keys(at / "runtime") {
    std::filesystem::create_directories(folder / "runtime");
  }

  Result<Storage> open_store() const {
    return Storage::open(fakes::plugin("storage-sqlite", {{"path", (folder / "agent.db").string()}}));
  }
  Agent agent(int cancel_fd = -1, std::function<void(std::string_view)> image_progress = {}) {
    return Agent::create(
        {.open_store = [this] { return open_store(); },
         .open_runtime =
             [this] { return Runtime::open(fakes::plugin(runtime, {{"path", machines.folder().string()}})); },
         .open_injectors =
             [] { return Injector::open_all({fakes::plugin("inject-file"), fakes::plugin("inject-env")}); },
         .host_key = *SigningKey::from_seed(filled<32>(3)),
         .writers = {writer.public_key()},
         .identity = keys.identity.public_key(),
         .keys = &keys,
         .cancel_fd = cancel_fd,
         .progress = {},
         .image_progress = std::move(image_progress),
         .mounts = mounts});
  }

  // Launch spec NUMBER with these secrets.
  BootOrder order(uint64_t number, const std::map<std::string, std::string> &secrets,
                  MachineConfig config = {}) {
    LaunchSpec spec;
    spec.app_id = filled<16>(1);
    spec.machine = kMachine;
    spec.number = spec.version = spec.release = number;
    config.name = "web-1";
    config.image = "host";
    spec.config = std::move(config);
    BootOrder o;
    o.app = "web";
    o.spec = sign(writer, kLaunchSpecLabel, encode(spec));
    for (const auto &[name, value] : secrets) {
      Entry e;
      e.name = name;
      e.version = 1;
      std::ranges::copy_n(sha256(as_bytes(name + "=" + value)).begin(), 8, e.digest.begin());
      e.record.fill(static_cast<uint8_t>(number));  // sealed anew
      e.flags = value_flags(name, SecretBytes::copy_of(as_bytes(value)));
      o.secrets.push_back(e);
      keys.values[name] = value;
    }
    o.fetch = [](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
      BootOrder::Sealed sealed;
      for (const std::string &name : names) sealed.records.emplace_back(name, Bytes{0});
      return sealed;
    };
    return o;
  }
  Hash hash(const BootOrder &o) const { return sha256(o.spec); }

  std::filesystem::path folder;
  std::string runtime = "runtime-files";
  std::optional<std::vector<std::string>> mounts;
  fakes::Instances machines;
  FakeKeys keys;
  const SigningKey writer = *SigningKey::from_seed(filled<32>(1));
};

class AgentTest : public testing::Test {
 protected:
  MachineState state() {
    const auto s = agent_.state(std::string(kMachine));
    EXPECT_TRUE(ok(s));
    EXPECT_TRUE(s && s->has_value());
    return s && *s ? **s : MachineState{};
  }
  MachineView view() {
    const auto v = agent_.view(state());
    EXPECT_TRUE(ok(v));
    return v ? *v : MachineView{};
  }
  void store(const MachineState &s) {
    Batch b;
    b.put(s.machine, encode(s));
    const auto kept = host_.open_store();
    ASSERT_TRUE(kept && kept->commit(kMachinesSpace, b));
  }
  // An instance of the Machine, as a boot that was cut off has left it.
  InstanceRecord left_behind(const std::string &id, std::string_view in_state, const BootOrder &order,
                             uint64_t number) {
    machines_.set(id, "state", in_state);
    machines_.set(id, "name", "web-1");
    machines_.set(id, "label-coffer.instance", id);
    machines_.set(id, "label-coffer.machine", kMachine);
    InstanceRecord r;
    r.instance_id = id;
    r.spec = host_.hash(order);
    r.spec_number = r.version = r.release = number;
    return r;
  }
  BootOutcome booted(const BootOrder &next, const BootOrder *way_back = nullptr,
                     const Probation &probation = {}) {
    auto out = agent_.boot(next, way_back, probation);
    EXPECT_TRUE(ok(out));
    return out ? *std::move(out) : BootOutcome{};
  }
  // Nothing is left of any boot but `instances`, and one that failed, for its log; nobody holds the Machine.
  void expect_clean(std::vector<std::string> instances) {
    const MachineState s = state();
    if (s.failed) {
      instances.push_back(s.failed->instance_id);
      EXPECT_NE(machines_.get(s.failed->instance_id, "state"), "started");
    }
    std::ranges::sort(instances);
    EXPECT_EQ(machines_.all(), instances);
    EXPECT_EQ(s.lease_owner, "");
    EXPECT_FALSE(s.pending);
    EXPECT_THAT(s.leftovers, IsEmpty());
  }

  fakes::Folder folder_;
  Host host_{folder_.path()};
  fakes::Instances &machines_ = host_.machines;
  FakeKeys &keys_ = host_.keys;
  Agent agent_ = host_.agent();
};

// ---- a boot ----

TEST_F(AgentTest, OnlyFoldersOfTheHostThatItNamesAreMounted) {
  host_.mounts = {"/srv/web"};
  Agent agent = host_.agent();
  const auto refused = [&](uint64_t number, const std::string &source) {
    MachineConfig config;
    config.mounts = {{source, "/data", false}};
    const auto out = agent.boot(host_.order(number, {{"A", "1"}}, config), nullptr);
    EXPECT_TRUE(ok(out));
    return out && out->failed && out->failed->code == ErrorCode::kPermissionDenied;
  };
  EXPECT_FALSE(refused(1, "/srv/web"));
  EXPECT_FALSE(refused(2, "volume"));
  EXPECT_TRUE(refused(3, "/srv/web/below"));  // where a Machine could have put a link
  EXPECT_TRUE(refused(4, "/srv/web/"));
  EXPECT_TRUE(refused(5, "/"));
}

TEST_F(AgentTest, TheAppGetsExactBytesAsVariablesAndFiles) {
  const std::string odd = "a=\"b\"\n'c'\x01\xc3\xa9 $(x) \\";
  MachineConfig config;
  config.argv = {"app", "--flag"};
  config.env = {{"PLAIN", "yes"}};
  config.files = {{"/run/secrets/key", "KEY", "", 0440, FileEncoding::kRaw, false, false, 0, 0},
                  {"/run/both", "BOTH", "", 0400, FileEncoding::kBase64, true, false, 0, 0},
                  {"/etc/motd", "", "hello", 0444, FileEncoding::kRaw, false, false, 0, 0}};
  const std::string with_nul("x\0y", 3);
  const BootOutcome out = booted(host_.order(1, {{"ODD", odd}, {"KEY", with_nul}, {"BOTH", "QUJD"}}, config));
  ASSERT_FALSE(out.failed) << out.failed->message;
  const std::string id = machines_.of(kMachine);
  EXPECT_EQ(machines_.get(id, "env-ODD"), odd);
  EXPECT_EQ(machines_.get(id, "env-PLAIN"), "yes");
  EXPECT_EQ(machines_.get(id, "env-BOTH"), "QUJD");
  EXPECT_EQ(machines_.get(id, "env-KEY"), std::nullopt);  // a file only
  EXPECT_EQ(machines_.get(id, "file-,run,secrets,key"), with_nul);
  EXPECT_EQ(machines_.get(id, "mode-,run,secrets,key"), std::to_string(0440));
  EXPECT_EQ(machines_.get(id, "file-,run,both"), "ABC");
  EXPECT_EQ(machines_.get(id, "file-,etc,motd"), "hello");
  EXPECT_EQ(machines_.get(id, "argv"), "app\n--flag\n");
  EXPECT_EQ(machines_.get(id, "env-COFFER_APP_NAME"), "web");
  EXPECT_EQ(machines_.get(id, "env-COFFER_MACHINE_ID"), kMachine);
}

TEST_F(AgentTest, NothingIsOpenedBeforeCreateAndTheOldInstanceRunsUntilThen) {
  const BootOrder first = host_.order(1, {{"A", "1"}}), second = host_.order(2, {{"A", "2"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  fakes::forget_calls(machines_.folder());
  booted(second, &first);
  const std::string fresh = machines_.of(kMachine);
  EXPECT_NE(old, fresh);
  EXPECT_THAT(calls(machines_.folder()), ElementsAre("create " + fresh, "token", "open", "stop " + old,
                                                     "start " + fresh, "destroy " + old));
  EXPECT_EQ(machines_.get(fresh, "env-A"), "2");
  EXPECT_EQ(keys_.last_instance, fresh);
  expect_clean({fresh});
}

TEST_F(AgentTest, AStartedMachineHasAReceiptSignedByItsHost) {
  const BootOrder order = host_.order(7, {{"A", "1"}});
  booted(order);
  const MachineState s = state();
  EXPECT_EQ(s.state, State::kStarted);
  EXPECT_EQ(s.last_good, host_.hash(order));
  EXPECT_EQ(s.current->version, 7u);
  const PublicKey host = agent_.host();
  const auto payload = open_signed(s.receipt, kReceiptLabel, {&host, 1});
  ASSERT_TRUE(ok(payload));
  EXPECT_THAT(std::string(as_text(*payload)), HasSubstr(s.current->instance_id));
}

TEST_F(AgentTest, OnlyLaunchSpecsOfAPinnedWriterAreBooted) {
  BootOrder order = host_.order(1, {{"A", "1"}});
  order.spec.back() ^= 1;
  EXPECT_THAT(agent_.boot(order, nullptr), Fails(ErrorCode::kDataLoss, "signature"));
  EXPECT_THAT(machines_.all(), IsEmpty());
  EXPECT_FALSE(agent_.state(std::string(kMachine))->has_value());
}

TEST_F(AgentTest, AnOlderLaunchSpecIsRefusedAndBootAgainIsTheWayBack) {
  const BootOrder first = host_.order(1, {{"A", "1"}}), second = host_.order(2, {{"A", "2"}});
  booted(first);
  booted(second, &first);
  const std::string running = machines_.of(kMachine);
  EXPECT_THAT(agent_.boot(first, nullptr), Fails(ErrorCode::kAborted, "newer"));
  expect_clean({running});
  EXPECT_EQ(machines_.get(running, "state"), "started");

  EXPECT_THAT(agent_.boot_again(first, host_.hash(first)), Fails(ErrorCode::kAborted, "another launch spec"));
  expect_clean({running});

  keys_.values["A"] = "1";
  const auto back = agent_.boot_again(first, host_.hash(second));
  ASSERT_TRUE(ok(back));
  EXPECT_FALSE(back->failed);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  expect_clean({machines_.of(kMachine)});
}

TEST_F(AgentTest, APlainVariableThatASecretHidesIsWarnedOf) {
  MachineConfig config;
  config.env = {{"A", "plain"}, {"B", "plain"}};
  const BootOutcome out = booted(host_.order(1, {{"A", "secret"}}, config));
  EXPECT_FALSE(out.failed);
  EXPECT_THAT(out.warnings, ElementsAre("variable A is set both plainly and as a secret: the secret wins"));
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "env-A"), "secret");
}

TEST_F(AgentTest, AMachineThatChoosesItsSecretsGetsTheseVariablesAndNoOthers) {
  const auto variables = [&] {
    std::map<std::string, std::string> out;
    for (const char *name : {"A", "B", "C", "FILE", "X", "Y"})
      if (const auto value = machines_.get(machines_.of(kMachine), std::string("env-") + name))
        out.emplace(name, *value);
    return out;
  };
  const std::map<std::string, std::string> secrets = {{"A", "1"}, {"B", "2"}, {"C", "3"}, {"FILE", "4"}};
  MachineConfig config;
  config.files = {{"/run/key", "FILE", "", 0400, FileEncoding::kRaw, true, false, 0, 0, ""}};
  booted(host_.order(1, secrets, config));
  EXPECT_EQ(variables(), secrets);

  using Chosen = std::vector<SecretVariable>;
  config.secrets = Chosen{{"A", "A"}, {"A", "X"}, {"B", "Y"}};
  EXPECT_FALSE(booted(host_.order(2, secrets, config)).failed);
  EXPECT_THAT(variables(), ElementsAre(Pair("A", "1"), Pair("X", "1"), Pair("Y", "2")));
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "file-,run,key"), "4");

  config.secrets = Chosen{{"FILE", "X"}, {"B", "A"}};
  EXPECT_FALSE(booted(host_.order(3, secrets, config)).failed);
  EXPECT_THAT(variables(), ElementsAre(Pair("A", "2"), Pair("X", "4")));

  config.secrets.emplace();
  EXPECT_FALSE(booted(host_.order(4, secrets, config)).failed);
  EXPECT_THAT(variables(), IsEmpty());

  config.secrets = Chosen{{"ABSENT", "A"}};
  const BootOutcome out = booted(host_.order(5, secrets, config));
  ASSERT_TRUE(out.failed);
  EXPECT_EQ(out.failed->code, ErrorCode::kNotFound);
  EXPECT_THAT(out.failed->message, HasSubstr("ABSENT"));
}

// ---- what is refused before an instance exists ----

TEST_F(AgentTest, AValueThatNoVariableCanHoldIsRefusedBeforeCreate) {
  for (const std::string &value : {std::string("a\0b", 3), std::string(131071, 'x')}) {
    const BootOutcome out = booted(host_.order(1, {{"BIG", value}}));
    ASSERT_TRUE(out.failed);
    EXPECT_EQ(out.failed->code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(out.failed->message, HasSubstr("secret BIG cannot be an environment variable"));
    EXPECT_THAT(out.failed->remedy, HasSubstr("--file"));
  }
  EXPECT_THAT(calls(machines_.folder()), IsEmpty());
  expect_clean({});
}

TEST_F(AgentTest, ASecretThatAFileNeedsAndNobodyHasSetIsNamedBeforeCreate) {
  MachineConfig config;
  config.files = {{"/run/key", "ABSENT", "", 0400, FileEncoding::kRaw, false, false, 0, 0}};
  const BootOutcome out = booted(host_.order(1, {{"A", "1"}}, config));
  ASSERT_TRUE(out.failed);
  EXPECT_EQ(out.failed->code, ErrorCode::kNotFound);
  EXPECT_THAT(out.failed->message, HasSubstr("ABSENT"));
  EXPECT_THAT(calls(machines_.folder()), IsEmpty());
}

TEST_F(AgentTest, AFileThatNeedsBase64IsRefusedBeforeCreate) {
  MachineConfig config;
  config.files = {{"/run/key", "KEY", "", 0400, FileEncoding::kBase64, false, false, 0, 0}};
  const BootOutcome out = booted(host_.order(1, {{"KEY", "not base64!"}}, config));
  ASSERT_TRUE(out.failed);
  EXPECT_EQ(out.failed->code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(out.failed->message, HasSubstr("secret KEY is not base64"));
  EXPECT_THAT(out.failed->message, Not(HasSubstr("not base64!")));
  EXPECT_THAT(calls(machines_.folder()), IsEmpty());
}

TEST_F(AgentTest, FlagsThatLieAreNoticedAfterOpenAndNothingIsLeft) {
  BootOrder order = host_.order(1, {{"BIG", std::string("a\0b", 3)}});
  order.secrets.front().flags = kEnvOk;
  const BootOutcome out = booted(order);
  ASSERT_TRUE(out.failed);
  EXPECT_THAT(out.failed->message, HasSubstr("BIG"));
  EXPECT_EQ(position(calls(machines_.folder()), "start"), -1);
  expect_clean({});
}

TEST_F(AgentTest, AnEnvironmentOverTwoMebibytesIsRefusedAndItsInstanceRemoved) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  std::map<std::string, std::string> many;
  for (int i = 0; i < 17; ++i) many["V" + std::to_string(i)] = std::string(128000, 'x');
  const BootOutcome out = booted(host_.order(2, many), &first);
  ASSERT_TRUE(out.failed);
  EXPECT_THAT(out.failed->message, HasSubstr("2 MiB"));
  EXPECT_TRUE(out.went_back);
  EXPECT_GE(position(calls(machines_.folder()), "open"), 0);
  expect_clean({old});
  EXPECT_EQ(machines_.get(old, "state"), "started");
}

// ---- each step fails ----

struct Failure {
  const char *what;
  int nth;
  bool after;
  const char *old_is;  // "kept": runs on; "back": its launch spec is booted again
};
void PrintTo(const Failure &f, std::ostream *out) {
  *out << f.what << " " << f.nth << (f.after ? " after its effect" : "");
}

class AgentFailure : public AgentTest, public testing::WithParamInterface<Failure> {
 protected:
  void arm() {
    const Failure &f = GetParam();
    if (std::string_view(f.what) == "token")
      keys_.token_fails = true;
    else if (std::string_view(f.what) == "open")
      keys_.open_fails = 1000;
    else
      fail_next(machines_.folder(), f.what, f.nth, ErrorCode::kUnavailable, f.after);
  }
  void disarm() {
    keys_.token_fails = false;
    keys_.open_fails = 0;
  }
};

TEST_P(AgentFailure, LeavesTheOldInstanceOrBootsItsLaunchSpecAgain) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  BootOrder second = host_.order(2, {{"A", "1"}, {"B", "2"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  arm();
  const BootOutcome out = booted(second, &first);
  ASSERT_TRUE(out.failed);
  EXPECT_TRUE(out.went_back) << out.failed->message;
  const std::string running = machines_.of(kMachine);
  expect_clean({running});
  EXPECT_EQ(machines_.get(running, "state"), "started");
  EXPECT_EQ(running == old, std::string_view(GetParam().old_is) == "kept");
  EXPECT_EQ(machines_.get(running, "env-A"), "1");
  EXPECT_EQ(machines_.get(running, "env-B"), std::nullopt);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  EXPECT_EQ(state().last_good, host_.hash(first));
  EXPECT_EQ(view().now, State::kStarted);

  // And the next boot goes through.
  disarm();
  const BootOutcome next = booted(second, &first);
  EXPECT_FALSE(next.failed) << next.failed->message;
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "env-B"), "2");
}

TEST_P(AgentFailure, OfAFirstBootLeavesNoInstance) {
  if (std::string_view(GetParam().what) == "stop") GTEST_SKIP() << "there is nothing to stop";
  if (std::string_view(GetParam().what) == "inspect" && GetParam().nth > 1)
    GTEST_SKIP() << "there is nothing else to inspect";
  arm();
  const BootOutcome out = booted(host_.order(1, {{"A", "1"}}));
  ASSERT_TRUE(out.failed);
  EXPECT_FALSE(out.went_back);
  expect_clean({});
  EXPECT_EQ(state().state, State::kFailed);
  EXPECT_EQ(view().message, out.failed->message);
}

INSTANTIATE_TEST_SUITE_P(
    Steps, AgentFailure,
    testing::Values(Failure{"create", 1, false, "kept"}, Failure{"create", 1, true, "kept"},
                    Failure{"token", 1, false, "kept"}, Failure{"open", 1, false, "kept"},
                    Failure{"inspect", 1, false, "kept"}, Failure{"stop", 1, false, "kept"},
                    Failure{"stop", 1, true, "back"}, Failure{"start", 1, false, "back"},
                    Failure{"start", 1, true, "back"}, Failure{"inspect", 2, false, "back"}));

TEST_F(AgentTest, WhenTheWayBackFailsTooTheMachineIsFailedAndBothReasonsAreTold) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  fail_next(machines_.folder(), "start", 0);
  const BootOutcome out = booted(host_.order(2, {{"A", "2"}}), &first);
  ASSERT_TRUE(out.failed);
  EXPECT_FALSE(out.went_back);
  EXPECT_THAT(out.failed->message, HasSubstr("previous launch spec did not start either"));
  EXPECT_EQ(state().state, State::kFailed);
  EXPECT_THAT(machines_.in_state("started"), IsEmpty());
  ASSERT_TRUE(state().failed);  // for its log
  EXPECT_THAT(machines_.in_state("created"), IsEmpty());
  EXPECT_EQ(state().lease_owner, "");

  fakes::stop_failing(machines_.folder(), "start");
  EXPECT_FALSE(booted(host_.order(3, {{"A", "3"}})).failed);
  expect_clean({machines_.of(kMachine)});
}

TEST_F(AgentTest, AMachineWhoseAppHadCrashedIsNotSaidToRunOn) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  machines_.set(machines_.of(kMachine), "state", "failed");
  fail_next(machines_.folder(), "create");
  const BootOutcome out = booted(host_.order(2, {{"A", "2"}}), &first);
  ASSERT_TRUE(out.failed);
  EXPECT_FALSE(out.went_back);
  EXPECT_EQ(view().now, State::kFailed);
}

TEST_F(AgentTest, AnInstanceThatCannotBeRemovedDoesNotStandInTheWayBack) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  fail_next(machines_.folder(), "start");
  fail_next(machines_.folder(), "destroy", 0);
  const BootOutcome out = booted(host_.order(2, {{"A", "1"}, {"B", "2"}}), &first);
  ASSERT_TRUE(out.failed);
  EXPECT_TRUE(out.went_back);
  EXPECT_EQ(out.failed->message, "plugin runtime-files: start: told to fail");
  EXPECT_EQ(view().now, State::kStarted);
  EXPECT_THAT(machines_.in_state("started"), SizeIs(1));
  EXPECT_THAT(out.warnings, SizeIs(1));
  fakes::stop_failing(machines_.folder(), "destroy");
  ASSERT_TRUE(ok(agent_.finish_cut_off(std::string(kMachine))));
  expect_clean({machines_.of(kMachine)});
}

TEST_F(AgentTest, AnInstanceThatCannotBeRemovedIsRemovedLater) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  fail_next(machines_.folder(), "destroy");
  const BootOutcome out = booted(host_.order(2, {{"A", "2"}}), &first);
  EXPECT_FALSE(out.failed);
  EXPECT_THAT(out.warnings, SizeIs(1));
  EXPECT_THAT(state().leftovers, SizeIs(1));
  EXPECT_THAT(machines_.all(), SizeIs(2));
  ASSERT_TRUE(ok(agent_.stop(std::string(kMachine))));
  expect_clean({machines_.of(kMachine)});
}

TEST_F(AgentTest, AKeyServiceThatLiesIsNotBelieved) {
  for (const char *lie : {"another signer", "another request", "another name", "fewer", "flipped bit"}) {
    keys_.lie = lie;
    const BootOutcome out = booted(host_.order(1, {{"A", "1"}, {"B", "2"}}));
    ASSERT_TRUE(out.failed) << lie;
    EXPECT_EQ(out.failed->code, ErrorCode::kDataLoss) << lie << ": " << out.failed->message;
    EXPECT_EQ(position(calls(machines_.folder()), "start"), -1) << lie;
    expect_clean({});
  }
}

TEST_F(AgentTest, AnInterruptBeforeTheOldInstanceIsStoppedChangesNothing) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  const int event = ::eventfd(0, EFD_CLOEXEC);
  keys_.before_open = [&] { ::eventfd_write(event, 1); };
  Agent interrupted = host_.agent(event);
  const auto out = interrupted.boot(host_.order(2, {{"A", "2"}}), &first);
  ASSERT_TRUE(ok(out));
  ASSERT_TRUE(out->failed);
  EXPECT_EQ(out->failed->code, ErrorCode::kCancelled);
  EXPECT_TRUE(out->went_back);
  expect_clean({old});
  EXPECT_EQ(machines_.get(old, "state"), "started");
  ::close(event);
}

// ---- stop, destroy, view ----

TEST_F(AgentTest, AStoppedMachineKeepsItsInstanceAndADestroyedOneNothing) {
  booted(host_.order(1, {{"A", "1"}}));
  const std::string id = machines_.of(kMachine);
  ASSERT_TRUE(ok(agent_.stop(std::string(kMachine))));
  EXPECT_EQ(machines_.get(id, "state"), "stopped");
  EXPECT_EQ(view().now, State::kStopped);
  ASSERT_TRUE(ok(agent_.destroy(std::string(kMachine))));
  EXPECT_THAT(machines_.all(), IsEmpty());
  EXPECT_FALSE(agent_.state(std::string(kMachine))->has_value());
  EXPECT_TRUE(ok(agent_.destroy(std::string(kMachine))));  // gone is fine
  EXPECT_THAT(agent_.stop(std::string(kMachine)), Fails(ErrorCode::kNotFound, "not on this host"));
}

TEST_F(AgentTest, EveryStopLeavesSignalAndTimeToTheInstancesOwnSpec) {
  const auto stopped_with = [&] {
    std::ifstream in(machines_.folder() / "stopped-with");
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  MachineConfig config;
  config.stop_signal = "SIGQUIT";
  config.stop_timeout_ms = 5'000;
  const BootOrder first = host_.order(1, {{"A", "1"}}, config);
  booted(first);
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "stop"), "SIGQUIT 5000000000");
  // The launch spec that comes says how its own instance is stopped, not the one that goes.
  config.stop_signal = "SIGINT";
  booted(host_.order(2, {{"A", "1"}}, config), &first);
  EXPECT_EQ(stopped_with(), " 0");
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "stop"), "SIGINT 5000000000");
  std::filesystem::remove(machines_.folder() / "stopped-with");
  ASSERT_TRUE(ok(agent_.stop(std::string(kMachine))));
  EXPECT_EQ(stopped_with(), " 0");
  std::filesystem::remove(machines_.folder() / "stopped-with");
  ASSERT_TRUE(ok(agent_.destroy(std::string(kMachine))));
  EXPECT_EQ(stopped_with(), " 0");
}

TEST_F(AgentTest, AnInstanceHasTheLabelOfItsHost) {
  booted(host_.order(1, {{"A", "1"}}));
  const auto [key, value] = agent_.label();
  EXPECT_EQ(key, "coffer.host");
  EXPECT_EQ(value, hex(std::span(agent_.host()).first<8>()));
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "label-" + key), value);
}

TEST_F(AgentTest, AnImageIsResolvedByTheRuntimeAndItsProgressIsTold) {
  std::vector<std::string> lines;
  Agent agent = host_.agent(-1, [&](std::string_view line) { lines.emplace_back(line); });
  EXPECT_EQ(agent.ensure_image("nginx:1", false).value(), "nginx:1@1");
  EXPECT_THAT(lines, IsEmpty());
  EXPECT_EQ(agent.ensure_image("nginx:1", true).value(), "nginx:1@1");
  EXPECT_THAT(lines, ElementsAre("pulling nginx:1"));
  fail_next(machines_.folder(), "image", 1, ErrorCode::kNotFound, false);
  EXPECT_EQ(agent.ensure_image("nginx:1", false).error().code, ErrorCode::kNotFound);
}

TEST_F(AgentTest, ADestroyThatFailsIsGoneOnWith) {
  for (const char *what : {"stop", "destroy"})
    for (const bool after : {false, true}) {
      booted(host_.order(1, {{"A", "1"}}));
      fail_next(machines_.folder(), what, 1, ErrorCode::kUnavailable, after);
      EXPECT_FALSE(agent_.destroy(std::string(kMachine))) << what;
      EXPECT_EQ(state().lease_owner, "");
      ASSERT_TRUE(ok(agent_.destroy(std::string(kMachine)))) << what;
      EXPECT_THAT(machines_.all(), IsEmpty()) << what;
      EXPECT_FALSE(agent_.state(std::string(kMachine))->has_value());
    }
}

TEST_F(AgentTest, ViewSaysWhatTheRuntimeSays) {
  booted(host_.order(1, {{"A", "1"}}));
  const std::string id = machines_.of(kMachine);
  EXPECT_EQ(view().now, State::kStarted);
  machines_.set(id, "state", "failed");
  EXPECT_EQ(view().now, State::kFailed);
  EXPECT_EQ(view().exit_code, 1);
  machines_.set(id, "state", "stopped");
  EXPECT_EQ(view().now, State::kStopped);
  machines_.remove(id);
  EXPECT_EQ(view().now, State::kFailed);
  EXPECT_THAT(view().message, HasSubstr("gone"));
}

// ---- leases ----

TEST_F(AgentTest, ALeaseOfADeadProcessIsTakenOver) {
  booted(host_.order(1, {{"A", "1"}}));
  MachineState s = state();
  s.lease_owner = kDead;
  s.lease_until_ms = UINT64_MAX;  // nobody waits for a time
  store(s);
  ASSERT_TRUE(ok(agent_.stop(std::string(kMachine))));
  EXPECT_EQ(state().lease_owner, "");
  EXPECT_GT(state().lease_attempt, s.lease_attempt);
}

// A process that does nothing until it is ended.
class Sleeper {
 public:
  Sleeper() {
    const char *argv[] = {"sleep", "600", nullptr};
    EXPECT_EQ(::posix_spawnp(&pid_, "sleep", nullptr, nullptr, const_cast<char **>(argv), environ), 0);
    const std::string &self = process_identity();
    std::ifstream in("/proc/" + std::to_string(pid_) + "/stat");
    std::string field;
    for (int i = 1; i <= 22; ++i) in >> field;  // "sleep" has no blank
    identity_ = self.substr(0, self.find(':')) + ":" + std::to_string(pid_) + ":" + field;
  }
  ~Sleeper() { end(); }
  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  const std::string &identity() const { return identity_; }

 private:
  pid_t pid_ = -1;
  std::string identity_;
};

TEST_F(AgentTest, ALeaseOfALivingProcessIsWaitedForUntilItEnds) {
  booted(host_.order(1, {{"A", "1"}}));
  const std::string id = machines_.of(kMachine);
  Sleeper owner;
  ASSERT_TRUE(process_alive(owner.identity()));
  MachineState s = state();
  s.lease_owner = owner.identity();
  store(s);

  const int event = ::eventfd(1, EFD_CLOEXEC);
  Agent interrupted = host_.agent(event);
  EXPECT_THAT(interrupted.stop(std::string(kMachine)), Fails(ErrorCode::kCancelled, "another coffer"));
  ::close(event);
  EXPECT_EQ(machines_.get(id, "state"), "started");
  EXPECT_EQ(state().lease_owner, owner.identity());

  std::atomic<bool> done = false;
  Result<void> stopped;
  std::thread waiting([&] {
    stopped = agent_.stop(std::string(kMachine));
    done = true;
  });
  EXPECT_FALSE(done);
  owner.end();
  waiting.join();
  EXPECT_TRUE(ok(stopped));
  EXPECT_EQ(machines_.get(id, "state"), "stopped");
}

TEST_F(AgentTest, AnInstanceWhoseBootWasCutOffIsAdoptedWhenItsAppRuns) {
  const BootOrder first = host_.order(1, {{"A", "1"}}), second = host_.order(2, {{"A", "2"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  machines_.set(old, "state", "stopped");
  MachineState s = state();
  s.pending = left_behind("cutoff", "started", second, 2);
  s.lease_owner = kDead;
  store(s);
  EXPECT_TRUE(view().cut_off);

  ASSERT_TRUE(ok(agent_.finish_cut_off(std::string(kMachine))));
  expect_clean({"cutoff"});
  EXPECT_EQ(state().current->instance_id, "cutoff");
  EXPECT_EQ(state().last_good, host_.hash(second));
  EXPECT_EQ(view().now, State::kStarted);
  const PublicKey host = agent_.host();
  EXPECT_TRUE(ok(open_signed(state().receipt, kReceiptLabel, {&host, 1})));
}

TEST_F(AgentTest, AnInstanceWhoseBootWasCutOffIsRemovedWhenItsAppDoesNotRun) {
  const BootOrder first = host_.order(1, {{"A", "1"}}), second = host_.order(2, {{"A", "2"}});
  for (const char *in_state : {"created", "failed", "stopped"})
    for (const char *old_is : {"started", "stopped"}) {
      ASSERT_TRUE(ok(agent_.boot_again(first)));
      const std::string old = machines_.of(kMachine);
      machines_.set(old, "state", old_is);
      MachineState s = state();
      s.pending = left_behind("cutoff", in_state, second, 2);
      s.lease_owner = kDead;
      store(s);
      ASSERT_TRUE(ok(agent_.finish_cut_off(std::string(kMachine))));
      expect_clean({old});
      EXPECT_EQ(state().current->spec, host_.hash(first));
      // Was the old one stopped by the boot that was cut off, the Machine is still to be booted.
      EXPECT_EQ(view().cut_off, std::string_view(old_is) == "stopped");
      EXPECT_EQ(machines_.get(old, "state"), old_is);
    }
}

TEST_F(AgentTest, ACutOffBootThatHadNoInstanceYetIsForgotten) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  const std::string old = machines_.of(kMachine);
  MachineState s = state();
  s.pending = InstanceRecord{"never-made", {}, {}, 2, 2, 2, 0};
  s.lease_owner = kDead;
  store(s);
  ASSERT_TRUE(ok(agent_.finish_cut_off(std::string(kMachine))));
  expect_clean({old});
  EXPECT_EQ(view().now, State::kStarted);
}

TEST_F(AgentTest, AStopThatWasCutOffIsFinishedOnlyAsItWasSeen) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  ASSERT_TRUE(ok(agent_.announce(std::string(kMachine), State::kStopping)));
  const MachineState seen = state();
  ASSERT_TRUE(ok(agent_.boot_again(first)));
  ASSERT_TRUE(ok(agent_.finish_stop(seen)));
  EXPECT_EQ(view().now, State::kStarted);
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "state"), "started");

  ASSERT_TRUE(ok(agent_.announce(std::string(kMachine), State::kStopping)));
  ASSERT_TRUE(ok(agent_.finish_stop(state())));
  EXPECT_EQ(view().now, State::kStopped);
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "state"), "stopped");
}

TEST_F(AgentTest, WhereCallsMayOverlapTheOldInstanceGoesWhileTheNewOneStarts) {
  host_.runtime = "runtime-files-concurrent";
  Agent agent = host_.agent();
  const BootOrder first = host_.order(1, {{"A", "1"}}), second = host_.order(2, {{"B", "2"}});
  ASSERT_TRUE(ok(agent.boot(first, nullptr)));
  const std::string old = machines_.of(kMachine);

  // A start that fails shows it: the old instance is gone although no new one runs.
  fail_next(machines_.folder(), "start");
  fakes::forget_calls(machines_.folder());
  auto out = agent.boot(second, &first);
  ASSERT_TRUE(ok(out));
  EXPECT_TRUE(out->failed && out->went_back);
  const auto lines = calls(machines_.folder());
  const std::string back = machines_.of(kMachine);
  EXPECT_NE(back, old);
  EXPECT_GE(fakes::position(lines, "destroy " + old), 0);
  EXPECT_LT(fakes::position(lines, "destroy " + old), fakes::position(lines, "create " + back));
  expect_clean({back});
  EXPECT_EQ(machines_.get(back, "env-A"), "1");

  // A removal that fails is made up for.
  fail_next(machines_.folder(), "destroy");
  out = agent.boot(host_.order(3, {{"C", "3"}}), &first);
  ASSERT_TRUE(ok(out));
  EXPECT_FALSE(out->failed);
  expect_clean({machines_.of(kMachine)});
  EXPECT_EQ(machines_.get(machines_.of(kMachine), "env-C"), "3");
}

TEST_F(AgentTest, AReservedMachineIsNobodyElses) {
  ASSERT_TRUE(ok(agent_.reserve(filled<16>(1), "web", std::string(kMachine), "web-1")));
  EXPECT_EQ(state().lease_owner, process_identity());
  EXPECT_THAT(agent_.reserve(filled<16>(1), "web", std::string(kMachine), "web-1"),
              Fails(ErrorCode::kAborted, ""));
  EXPECT_FALSE(booted(host_.order(1, {{"A", "1"}})).failed);
  EXPECT_EQ(state().lease_owner, "");
}

// The other half of TwoProcessesNeverActOnOneMachineAtOnce: boots the Machine again and again.
TEST(DISABLED_AgentProcess, BootsAgainAndAgain) {
  const char *folder = std::getenv("COFFER_TEST_FOLDER");
  ASSERT_NE(folder, nullptr);
  Host host(folder);
  Agent agent = host.agent();
  const uint64_t first = std::stoul(std::getenv("COFFER_TEST_SPEC"));
  const BootOrder orders[] = {host.order(first, {{"A", std::to_string(first)}}),
                              host.order(first + 1, {{"A", std::to_string(first + 1)}})};
  for (int i = 0; i < 15; ++i) {
    const auto out = agent.boot_again(orders[i % 2]);
    ASSERT_TRUE(ok(out));
    ASSERT_FALSE(out->failed) << out->failed->message;
  }
}

TEST_F(AgentTest, TwoProcessesNeverActOnOneMachineAtOnce) {
  ::setenv("COFFER_TEST_FOLDER", folder_.path().c_str(), 1);
  std::vector<pid_t> children(2);
  const char *argv[] = {"/proc/self/exe", "--gtest_filter=DISABLED_AgentProcess.*",
                        "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr};
  for (pid_t &child : children) {
    ::setenv("COFFER_TEST_SPEC", &child == &children[0] ? "1" : "3", 1);
    ASSERT_EQ(::posix_spawn(&child, argv[0], nullptr, nullptr, const_cast<char **>(argv), environ), 0);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  expect_clean({machines_.of(kMachine)});
  EXPECT_EQ(view().now, State::kStarted);
  // From one start to the next the instance before was stopped and no other one was started.
  std::string running;
  int starts = 0;
  for (const std::string &line : calls(machines_.folder())) {
    if (line.starts_with("stop ")) {
      EXPECT_EQ(line.substr(5), running);
      running.clear();
    }
    if (!line.starts_with("start ")) continue;
    ++starts;
    EXPECT_EQ(running, "") << "two instances at once";
    running = line.substr(6);
  }
  EXPECT_EQ(starts, 30);
}

// ---- probation ----

TEST_F(AgentTest, AnAppThatEndsInItsSmokeTimeGoesBackAndItsLogIsTold) {
  const BootOrder first = host_.order(1, {{"A", "the old value"}});
  booted(first);
  keys_.values["A"] = "the new value";
  const BootOutcome out =
      booted(host_.order(2, {{"A", "the new value"}, {"DIES", "3-----"}, {"CHATTY", "please"}}), &first,
             {.smoke_ms = 60'000});
  ASSERT_TRUE(out.failed);
  EXPECT_THAT(out.failed->message, HasSubstr("its app ended with exit code 3 within"));
  EXPECT_TRUE(out.went_back);
  EXPECT_THAT(out.log, HasSubstr("A is [redacted]\n"));
  EXPECT_THAT(out.log, HasSubstr("COFFER_APP_NAME is web\n"));  // control
  EXPECT_THAT(out.log, Not(HasSubstr("value")));
  EXPECT_FALSE(out.log_withheld);
  ASSERT_TRUE(state().failed);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  EXPECT_EQ(state().message, out.failed->message);
  expect_clean({state().current->instance_id});
  // Its log is there until something else was booted.
  std::string log;
  ASSERT_TRUE(ok(agent_.logs(state(), {.failed = true}, [&](uint32_t, int64_t, ByteSpan b) {
    log += as_text(b);
    return true;
  })));
  EXPECT_THAT(log, HasSubstr("DIES"));
  EXPECT_FALSE(booted(host_.order(3, {{"A", "the old value"}})).failed);
  EXPECT_FALSE(state().failed);
  expect_clean({state().current->instance_id});
}

TEST_F(AgentTest, ALogIsWithheldWhenAValueIsTooShortToBeFound) {
  const BootOrder first = host_.order(1, {{"A", "long enough"}});
  booted(first);
  const BootOutcome out = booted(host_.order(2, {{"A", "short"}, {"DIES", "3-----"}, {"CHATTY", "please"}}),
                                 &first, {.smoke_ms = 60'000});
  ASSERT_TRUE(out.failed);
  EXPECT_TRUE(out.log_withheld);
  EXPECT_EQ(out.log, "");
}

TEST_F(AgentTest, AFirstInstanceThatIsNoGoodIsStoppedAndKeptForItsLog) {
  const BootOutcome out = booted(host_.order(1, {{"DIES", "3-----"}}), nullptr, {.smoke_ms = 60'000});
  ASSERT_TRUE(out.failed);
  EXPECT_FALSE(out.went_back);
  EXPECT_EQ(view().now, State::kFailed);
  EXPECT_THAT(machines_.in_state("started"), IsEmpty());
}

TEST_F(AgentTest, ChecksAreTriedUntilTheyPassOrPatienceEnds) {
  MachineConfig config;
  config.checks = {
      {.name = "alive", .kind = Check::Kind::kHttp, .port = 80, .path = "/up", .interval_ms = 10},
      {.name = "open", .port = 81, .interval_ms = 10}};
  const BootOrder first = host_.order(1, {{"A", "1"}}), next = host_.order(2, {{"A", "1"}}, config);
  booted(first);
  const BootOutcome never = booted(next, &first, {.checks = true, .patience_ms = 100});
  ASSERT_TRUE(never.failed);
  EXPECT_THAT(never.failed->message,
              HasSubstr("its check alive did not pass within 0.1 s: connection refused"));
  EXPECT_TRUE(never.went_back);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  // Not asked for.
  EXPECT_FALSE(booted(host_.order(3, {{"A", "1"}}, config), &first, {.patience_ms = 100}).failed);
  // While it is waited for.
  std::thread listens([&] {
    for (std::string id; id.empty() || machines_.get(id, "probes").value_or("").empty();)
      for (const std::string &i : machines_.in_state("started"))
        if (machines_.get(i, "probes")) id = i, machines_.listen(i, 80), machines_.listen(i, 81);
  });
  const BootOutcome good =
      booted(host_.order(4, {{"A", "1"}}, config), &first, {.checks = true, .patience_ms = 60'000});
  listens.join();
  EXPECT_FALSE(good.failed) << good.failed->message;
}

TEST_F(AgentTest, WhatRunsAlreadyHasOnlyItsProbationLeft) {
  const BootOrder first = host_.order(1, {{"A", "long enough"}}),
                  next = host_.order(2, {{"A", "long enough"}});
  booted(first);
  booted(next, &first);  // and then whoever ordered it died
  const std::string instance = state().current->instance_id;
  EXPECT_FALSE(booted(next, &first, {.smoke_ms = 10}).failed);
  EXPECT_EQ(state().current->instance_id, instance);
  machines_.end(instance, 4);
  const BootOutcome out = agent_.boot_again(first, host_.hash(next)).value();
  EXPECT_FALSE(out.failed);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  // Once more: it is there.
  const std::string back = state().current->instance_id;
  EXPECT_FALSE(agent_.boot_again(first, host_.hash(next)).value().failed);
  EXPECT_EQ(state().current->instance_id, back);
}

TEST_F(AgentTest, AMachineThatIsNotWantedAnyMoreEndsItsProbation) {
  const BootOrder first = host_.order(1, {{"A", "1"}});
  booted(first);
  BootOrder next = host_.order(2, {{"A", "1"}});
  int asked = 0;
  next.still_wanted = [&]() -> Result<void> {
    if (++asked == 1) return {};
    return fail(ErrorCode::kAborted, "stopped meanwhile");
  };
  const BootOutcome out = booted(next, &first, {.smoke_ms = 60'000});
  ASSERT_TRUE(out.failed);
  EXPECT_EQ(out.failed->code, ErrorCode::kAborted);
  EXPECT_EQ(asked, 2);
}

// ---- an instance that stays ----

class StayTest : public AgentTest {
 protected:
  static constexpr Probation kMayStay{.may_stay = true};
  StayTest() {
    for (const auto &[path, secret, reload] :
         {std::tuple{"/secrets/a", "A", "signal:SIGHUP"}, std::tuple{"/certs/b", "B", "none"},
          std::tuple{"/etc/c", "C", ""}}) {
      FileBinding f;
      f.guest_path = path;
      f.secret = secret;
      f.reload = reload;
      config_.files.push_back(std::move(f));
    }
  }
  static std::map<std::string, std::string> secrets(const std::map<std::string, std::string> &other = {}) {
    std::map<std::string, std::string> all = other;
    for (const char *name : {"A", "B", "C", "D"}) all.emplace(name, std::string("the value of ") + name);
    return all;
  }
  BootOrder order(uint64_t number, const std::map<std::string, std::string> &other = {}) {
    return host_.order(number, secrets(other), config_);
  }
  std::string instance() { return state().current->instance_id; }
  std::string file(const std::string &name) { return machines_.get(instance(), "file-" + name).value_or(""); }
  // Booted on top of what runs: did the instance stay?
  bool stays(const BootOrder &next, BootOutcome::Done how) {
    const std::string before = instance();
    const BootOutcome out = booted(next, nullptr, kMayStay);
    EXPECT_FALSE(out.failed) << out.failed->message;
    EXPECT_EQ(out.done, how);
    EXPECT_EQ(state().current->spec, host_.hash(next));
    EXPECT_EQ(state().state, State::kStarted);
    expect_clean({instance()});
    return instance() == before;
  }

  // As the death of a process leaves it that was replacing files.
  void cut_off() {
    MachineState s = state();
    s.state = State::kStarting;
    s.current->made_of = kMixed;
    s.lease_owner = kDead;
    store(s);
  }

  MachineConfig config_;
};
using Done = BootOutcome::Done;

TEST_F(StayTest, NewValuesOfFilesThatAreReloadedAreReplacedInTheRunningInstance) {
  booted(order(1));
  const Bytes receipt = state().receipt;
  fakes::forget_calls(machines_.folder());
  EXPECT_TRUE(stays(order(2, {{"A", "new A"}}), Done::kReloaded));
  EXPECT_EQ(file(",secrets,a"), "new A");
  EXPECT_EQ(file(",certs,b"), "the value of B");
  EXPECT_NE(state().receipt, receipt);
  EXPECT_THAT(calls(machines_.folder()), ElementsAre("token", "open", "update " + instance() + " SIGHUP"));
  fakes::forget_calls(machines_.folder());
  EXPECT_TRUE(stays(order(3, {{"A", "new A"}, {"B", "new B"}}), Done::kReloaded));
  EXPECT_EQ(file(",certs,b"), "new B");
  EXPECT_THAT(calls(machines_.folder()), ElementsAre("token", "open", "update " + instance()));
  fakes::forget_calls(machines_.folder());
  EXPECT_TRUE(stays(order(4), Done::kReloaded));
  EXPECT_EQ(file(",secrets,a") + ", " + file(",certs,b"), "the value of A, the value of B");
  EXPECT_THAT(calls(machines_.folder()), ElementsAre("token", "open", "update " + instance() + " SIGHUP"));
}

TEST_F(StayTest, WhereNothingOfItChangesNothingIsOpenedAndTheReceiptSaysSo) {
  booted(order(1));
  const Bytes receipt = state().receipt;
  fakes::forget_calls(machines_.folder());
  BootOrder next = order(2);
  std::vector<std::string> fetched;
  next.fetch = [&](const std::vector<std::string> &names) -> Result<BootOrder::Sealed> {
    fetched = names;
    return BootOrder::Sealed{};
  };
  EXPECT_TRUE(stays(next, Done::kUnchanged));
  EXPECT_THAT(calls(machines_.folder()), IsEmpty());
  EXPECT_THAT(fetched, ElementsAre("A", "B", "C", "D")) << "an order that is kept has to be whole";
  EXPECT_NE(state().receipt, receipt);
}

TEST_F(StayTest, EverythingElseTakesANewInstance) {
  booted(order(1));
  EXPECT_FALSE(stays(order(2, {{"C", "new C"}}), Done::kBooted)) << "a file that is not replaced";
  EXPECT_FALSE(stays(order(3, {{"C", "new C"}, {"D", "new D"}}), Done::kBooted)) << "a variable";
  EXPECT_FALSE(stays(order(4, {{"A", "new A"}, {"D", "newer D"}}), Done::kBooted)) << "both kinds";
  EXPECT_FALSE(stays(order(5, {{"E", "one more"}}), Done::kBooted)) << "a new variable";
  EXPECT_FALSE(stays(order(6), Done::kBooted)) << "one variable less";
  config_.argv = {"serve"};
  EXPECT_FALSE(stays(order(7), Done::kBooted)) << "another config";
  config_.files[0].reload = "none";
  EXPECT_FALSE(stays(order(8), Done::kBooted)) << "files that are replaced otherwise";
  const std::string before = instance();
  EXPECT_FALSE(booted(order(9)).failed);
  EXPECT_NE(instance(), before) << "who restarts a Machine wants a new instance";
  machines_.end(instance(), 0);
  EXPECT_FALSE(stays(order(10), Done::kBooted)) << "one that does not run";
}

TEST_F(StayTest, FilesThatCannotBeReplacedAreBootedAnew) {
  const BootOrder first = order(1);
  booted(first);
  const std::string before = instance();
  fail_next(machines_.folder(), "update");
  const BootOrder next = order(2, {{"A", "new A"}});
  const BootOutcome out = booted(next, &first, kMayStay);
  EXPECT_FALSE(out.failed) << out.failed->message;
  EXPECT_EQ(out.done, Done::kBooted);
  ASSERT_THAT(out.warnings, SizeIs(1));
  EXPECT_THAT(out.warnings[0], HasSubstr("is booted anew, for its files could not be replaced"));
  EXPECT_NE(instance(), before);
  EXPECT_EQ(file(",secrets,a"), "new A");
  expect_clean({instance()});
}

TEST_F(StayTest, WhatIsNoGoodWithNewFilesGoesBackToANewInstance) {
  config_.checks = {{.name = "open", .port = 80, .interval_ms = 10}};
  const BootOrder first = order(1);
  booted(first);
  const std::string before = instance();
  const BootOrder next = order(2, {{"A", "new A"}});
  keys_.before_open = [&] {  // of the way back
    if (state().state == State::kStarting || state().failed) keys_.values["A"] = "the value of A";
  };
  const BootOutcome out = booted(next, &first, {.may_stay = true, .checks = true, .patience_ms = 50});
  ASSERT_TRUE(out.failed);
  EXPECT_THAT(out.failed->message, HasSubstr("its check open did not pass"));
  EXPECT_TRUE(out.went_back);
  EXPECT_NE(instance(), before);
  EXPECT_EQ(state().current->spec, host_.hash(first));
  EXPECT_EQ(position(calls(machines_.folder()), "update " + before) > 0, true) << "it was tried in place";
  expect_clean({instance()});
}

TEST_F(StayTest, TheWayBackOfARolloutIsInPlaceToo) {
  const BootOrder first = order(1);
  booted(first);
  const std::string before = instance();
  const BootOrder next = order(2, {{"A", "new A"}});
  EXPECT_TRUE(stays(next, Done::kReloaded));
  keys_.values["A"] = "the value of A";
  const auto back = agent_.boot_again(first, host_.hash(next));
  ASSERT_TRUE(ok(back));
  EXPECT_EQ(back->done, Done::kReloaded);
  EXPECT_EQ(instance(), before);
  EXPECT_EQ(file(",secrets,a"), "the value of A");
  EXPECT_EQ(state().current->spec, host_.hash(first));
}

// The process that replaced files died: nobody knows what is in them.
TEST_F(StayTest, FilesWhoseReplacementWasCutOffAreBootedAnewForwardAndBack) {
  const BootOrder first = order(1), next = order(2, {{"A", "new A"}});
  for (const bool forward : {true, false}) {
    keys_.values["A"] = "the value of A";
    ASSERT_TRUE(ok(agent_.boot_again(first)));
    const std::string before = instance();
    cut_off();
    EXPECT_TRUE(view().cut_off);
    if (forward) keys_.values["A"] = "new A";
    const auto out =
        forward ? agent_.boot(next, &first, kMayStay) : agent_.boot_again(first, host_.hash(next));
    ASSERT_TRUE(ok(out));
    EXPECT_FALSE(out->failed);
    EXPECT_NE(instance(), before);
    EXPECT_EQ(file(",secrets,a"), forward ? "new A" : "the value of A");
    EXPECT_EQ(state().current->spec, host_.hash(forward ? next : first));
    expect_clean({instance()});
  }
}

// The old one, with whatever is in its files, is not what is gone back to, however often a boot fails.
TEST_F(StayTest, NothingButANewInstanceEndsThatFilesAreOfTwoLaunchSpecs) {
  const BootOrder first = order(1);
  booted(first);
  const std::string before = instance();
  cut_off();
  const auto still_mixed = [&] {
    EXPECT_EQ(instance(), before);
    EXPECT_EQ(state().state, State::kStarting);
    EXPECT_TRUE(state().current->mixed());
    EXPECT_TRUE(view().cut_off);
  };
  const BootOrder next = order(2, {{"A", "new A"}});
  keys_.open_fails = 2;  // the way back, too
  auto out = agent_.boot(next, &first, kMayStay);
  ASSERT_TRUE(ok(out));
  EXPECT_TRUE(out->failed);
  EXPECT_FALSE(out->went_back);
  still_mixed();
  keys_.open_fails = 1;
  out = agent_.boot_again(first, host_.hash(next));
  ASSERT_TRUE(ok(out));
  EXPECT_TRUE(out->failed);
  EXPECT_FALSE(out->went_back);
  still_mixed();
  // An order to stop that was cut off; and the one who watches.
  ASSERT_TRUE(ok(agent_.announce(std::string(kMachine), State::kStopping)));
  ASSERT_TRUE(ok(agent_.finish_cut_off(std::string(kMachine))));
  still_mixed();
  EXPECT_THAT(agent_.note_runs(std::string(kMachine), before), Fails(ErrorCode::kAborted, ""));
  keys_.values["A"] = "the value of A";
  out = agent_.boot_again(first);
  ASSERT_TRUE(ok(out));
  EXPECT_FALSE(out->failed);
  EXPECT_NE(instance(), before);
  EXPECT_EQ(state().state, State::kStarted);
  expect_clean({instance()});
}

TEST_F(StayTest, OneThatSomebodyElseHasStartedDoesNotStay) {
  booted(order(1));
  machines_.start_again(instance());
  EXPECT_FALSE(stays(order(2), Done::kBooted));
}

// ---- the stored state ----

TEST(AgentState, ComesBackAsItWasAndIsRefusedWhenItIsCutOrChanged) {
  MachineState s;
  s.app_id = filled<16>(1);
  s.app = "web";
  s.machine = kMachine;
  s.name = "web-1";
  s.state = State::kStopping;
  s.current = InstanceRecord{"one", {1, 2}, filled<32>(2), 3, 4, 5, 6, filled<32>(7), {filled<32>(8)}};
  s.pending = InstanceRecord{"two", {}, filled<32>(3), 7, 8, 9, 0};
  s.leftovers = {{1}, {2, 3}};
  s.last_good = filled<32>(4);
  s.receipt = {9, 9};
  s.message = "why";
  s.lease_owner = "who";
  s.lease_attempt = 10;
  s.lease_until_ms = 11;
  s.updated_ms = 12;
  const Bytes bytes = encode(s);
  const auto again = decode_state(bytes);
  ASSERT_TRUE(ok(again));
  EXPECT_EQ(encode(*again), bytes);
  EXPECT_EQ(again->current->handle, s.current->handle);
  EXPECT_EQ(again->current->made_of, s.current->made_of);
  EXPECT_EQ(again->current->files, s.current->files);
  EXPECT_EQ(again->leftovers, s.leftovers);
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_state(ByteSpan(bytes).first(n))) << n;
  Bytes longer = bytes;
  longer.push_back(0);
  EXPECT_FALSE(decode_state(longer));
  for (size_t at = 0; at < bytes.size(); ++at) {
    Bytes changed = bytes;
    changed[at] ^= 0xff;
    if (const auto other = decode_state(changed)) {
      EXPECT_EQ(encode(*other), changed) << at;
    }
  }
  s.end = End{-1, 9, 42, true};
  const auto ended = decode_state(encode(s));
  ASSERT_TRUE(ok(ended));
  EXPECT_EQ(encode(*ended), encode(s));
  EXPECT_EQ(ended->end->exit_code, -1);
  s.failed = InstanceRecord{"three", {3}, filled<32>(5), 1, 2, 3, 4};
  const auto failed = decode_state(encode(s));
  ASSERT_TRUE(ok(failed));
  EXPECT_EQ(failed->failed->handle, s.failed->handle);
  // As it was before instances were kept with what they are made of, before failed ones were kept, and before
  // ends were noted.
  Bytes older = bytes;
  const Hash made_of = filled<32>(7);
  const auto at = std::ranges::search(older, made_of).begin();
  older.erase(at, at + 32 + 4 + 32);  // of `current`, with one file; `pending` has none
  const auto none = std::ranges::search(older, Bytes(32 + 4)).begin();
  older.erase(none, none + 32 + 4);
  for (const auto &[version, less] : {std::pair('3', 0), std::pair('2', 1), std::pair('1', 2)}) {
    Bytes old(older.begin(), older.end() - less);
    old[3] = static_cast<uint8_t>(version);
    const auto first = decode_state(old);
    ASSERT_TRUE(ok(first)) << version;
    EXPECT_FALSE(first->end);
    EXPECT_FALSE(first->failed);
    EXPECT_EQ(first->current->started_ms, 6u);
    EXPECT_EQ(first->current->made_of, Hash{});
  }
  for (const int v : {0, 8, 255}) {
    s.state = static_cast<State>(v);
    EXPECT_FALSE(decode_state(encode(s))) << v;
  }
}

}  // namespace
}  // namespace coffer
