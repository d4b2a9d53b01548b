// A storage backend that lies: every key of a vault is changed, and what the commands then do is judged.
//
// Each case works on a fresh copy of one COFFER_HOME with two Apps, whose Machines are stopped.  A command on
// an App must be refused (exit 1, with the App and an object named), or go on as if nothing were: then
// `secrets list` shows what it showed before, and the app in the Machine has exactly the right environment.
// The other App is not affected.
//
// By default a sample of the cases is tried (another one with COFFER_TAMPER_SEED=N); COFFER_TAMPER_ALL=1
// tries all of them.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <stdexcept>

#include "../support/command.h"
#include "coffer/config/engine_config.h"
#include "coffer/crypto/primitives.h"
#include "coffer/format/machine.h"
#include "coffer/plugin_host/storage.h"

namespace coffer::tests {
namespace {

namespace fs = std::filesystem;

constexpr const char *kMarker = "tamper-test-app";
const bool kAll = std::getenv("COFFER_TAMPER_ALL") != nullptr;

std::string binary() {
  const char *other = std::getenv("COFFER_BINARY");
  return other ? other : COFFER_BINARY;
}

struct Key {
  std::string space, name;
  auto operator<=>(const Key &) const = default;
};
using Dump = std::map<Key, Bytes>;

// One COFFER_HOME and what the commands say about it.
class Home {
 public:
  explicit Home(fs::path path) : path_(std::move(path)) {}
  ~Home() { end_machines(); }
  Home(const Home &) = delete;
  Home &operator=(const Home &) = delete;

  const fs::path &path() const { return path_; }

  Outcome coffer(Argv words) const {
    words.insert(words.begin(), binary());
    return run(words, {"COFFER_HOME=" + path_.string(), "PATH=/usr/bin:/bin"});
  }
  void must(const Argv &words) const {
    const Outcome o = coffer(words);
    ASSERT_EQ(o.code, 0) << words[0] << " " << words[1] << ": " << o.err;
  }
  Outcome machine_run(const std::string &app, const std::string &name) const {
    return coffer({"machine", "run", "-q", "-a", app, "host", "--name", name, "--",
                   fs::read_symlink("/proc/self/exe"), "--app", kMarker});
  }

  Storage storage() const {
    const auto config = read_engine_config(path_ / "engine.toml");
    if (!config) throw std::runtime_error(config.error().message);
    auto opened = Storage::open(config->storage);
    if (!opened) throw std::runtime_error(opened.error().message);
    return *std::move(opened);
  }
  Dump dump() const {
    const Storage store = storage();
    Dump out;
    const auto spaces = store.spaces("");
    if (!spaces) throw std::runtime_error(spaces.error().message);
    for (const std::string &space : *spaces)
      EXPECT_TRUE(store.list(space, "", true, [&](Stored s) {
        out.emplace(Key{space, s.key}, std::move(s.value));
        return true;
      }));
    return out;
  }
  void write(const Key &key, const std::optional<Bytes> &value) const {
    Batch b;
    if (value)
      b.put(key.name, *value);
    else
      b.erase(key.name);
    const auto done = storage().commit(key.space, b);
    ASSERT_TRUE(done) << done.error().message;
  }

  std::string machine_id(const std::string &app, const std::string &name) const {
    const std::string json = coffer({"machine", "list", "-j", "-a", app}).out;
    const auto names = json_fields(json, "name"), ids = json_fields(json, "id");
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) return ids[i];
    return {};
  }

  // Secrets that the app of a running Machine has.  Machines of this home alone.
  std::vector<std::map<std::string, std::string>> environments() const {
    std::vector<std::map<std::string, std::string>> out;
    for (const Process &p : processes_with(kMarker)) {
      std::error_code gone;
      bool ours = false;
      for (const pid_t supervisor : supervisors_below(path_ / "machines"))
        ours = ours || parent(p.pid) == supervisor;
      if (!ours) continue;
      out.emplace_back();
      for (const auto &[name, value] : p.env)
        if (name.starts_with("S_")) out.back().emplace(name, value);
    }
    return out;
  }

  void end_machines() const {
    for (const pid_t pid : supervisors_below(path_ / "machines"))
      ::kill(pid, SIGKILL);  // its app goes with it
  }

 private:
  static pid_t parent(pid_t pid) {
    const std::string stat = read_all("/proc/" + std::to_string(pid) + "/stat");
    const size_t at = stat.rfind(')');
    return at == std::string::npos ? 0 : std::atoi(stat.c_str() + at + 4);
  }
  fs::path path_;
};

using Values = std::map<std::string, std::string>;

class Tamper : public testing::TestWithParam<const char *> {
 protected:
  void SetUp() override {
    base_ = std::make_unique<Home>(folder_.path() / "base");
    base_->must({"init", "--storage", GetParam()});
    std::ofstream(base_->path() / "engine.toml", std::ios::app) << "\n[deploy]\nsmoke_time = \"0s\"\n";
    for (const char *app : {"web", "other"}) {
      base_->must({"apps", "create", app});
      base_->must({"secrets", "set", "-a", app, std::string("S_A=first of ") + app, "S_B=b", "--stage"});
    }
    for (const char *name : {"m1", "m2"}) ASSERT_EQ(base_->machine_run("web", name).code, 0);
    ASSERT_EQ(base_->machine_run("other", "o1").code, 0);
    history_.push_back(base_->dump());
    copy_vault(base_->path(), folder_.path() / "yesterday");
    base_->must({"secrets", "set", "-a", "web", "S_A=second of web", "S_C=c of web"});
    history_.push_back(base_->dump());
    base_->must({"secrets", "unset", "-a", "web", "S_B"});
    base_->must({"secrets", "set", "-a", "other", "S_B=second of other"});
    history_.push_back(base_->dump());
    for (const char *name : {"m1", "m2"}) base_->must({"machine", "stop", "-a", "web", name});
    base_->must({"machine", "stop", "-a", "other", "o1"});
    now_ = base_->dump();
    right_["web"] = {{"S_A", "second of web"}, {"S_C", "c of web"}};
    right_["other"] = {{"S_A", "first of other"}, {"S_B", "second of other"}};
    for (const auto &[app, values] : right_) {
      const std::string json = base_->coffer({"apps", "list", "-j"}).out;
      const auto names = json_fields(json, "name"), ids = json_fields(json, "id");
      for (size_t i = 0; i < names.size(); ++i) space_of_[names[i]] = "app-" + ids[i];
      list_[app] = base_->coffer({"secrets", "list", "-j", "-a", app}).out;
      ASSERT_EQ(json_fields(list_[app], "name").size(), 2u);
    }
  }

  // The files of the vault alone: not those of the key service and the agent.
  static void copy_vault(const fs::path &from, const fs::path &to) {
    fs::create_directories(to);
    for (const auto &entry : fs::directory_iterator(to))
      if (entry.path().filename().native().starts_with("vault")) fs::remove_all(entry.path());
    for (const auto &entry : fs::directory_iterator(from))
      if (entry.path().filename().native().starts_with("vault"))
        fs::copy(entry.path(), to / entry.path().filename(), fs::copy_options::recursive);
  }

  std::unique_ptr<Home> copy() {
    const fs::path path = folder_.path() / "copy";
    fs::remove_all(path);
    fs::copy(base_->path(), path, fs::copy_options::recursive);
    return std::make_unique<Home>(path);
  }

  // The App that a key belongs to; empty: the whole vault.
  std::string owner(const Key &key) const {
    if (key.space == "apps") return key.name;
    for (const auto &[app, space] : space_of_)
      if (space == key.space) return app;
    return {};
  }

  enum class Named { kApp, kAnything };
  void refused(const std::string &what, const Outcome &o, const std::string &app, Named named) {
    ++refused_;
    EXPECT_EQ(o.signal, 0) << what;
    EXPECT_FALSE(o.err.contains("internal error")) << what << ": " << o.err;
    EXPECT_TRUE(o.err.contains("Error: ")) << what << ": " << o.err;
    if (named == Named::kAnything) return;
    EXPECT_EQ(o.code, 1) << what << ": " << o.err;
    EXPECT_TRUE(o.err.contains("App " + app)) << what << ": " << o.err;
    static const char *const kObjects[] = {"record",         "manifest",        "head",
                                           "App key record", "directory entry", "Machine",
                                           "launch spec",    "release",         "secret"};
    EXPECT_TRUE(std::ranges::any_of(kObjects, [&](const char *object) { return o.err.contains(object); }))
        << what << ": " << o.err;
  }

  // Runs list, restart and run on `app`, and judges them.
  void judge(const Home &home, const std::string &what, const std::string &app, Named named,
             bool must_work = false) {
    const auto wrong = [&](const Outcome &o, const std::string &command) {
      if (o.code == 0) return false;
      if (must_work) ADD_FAILURE() << what << ": " << command << " on App " << app << ": " << o.err;
      if (!must_work) refused(what + ": " + command, o, app, named);
      return true;
    };
    const Outcome list = home.coffer({"secrets", "list", "-j", "-a", app});
    if (!wrong(list, "list")) {
      EXPECT_EQ(list.out, list_[app]) << what;
    }
    const auto booted = [&](const Outcome &o, const std::string &command) {
      const auto environments = home.environments();
      if (wrong(o, command)) {
        EXPECT_TRUE(environments.empty()) << what << ": " << command << " was refused, but an app runs";
      } else {
        EXPECT_EQ(environments.size(), 1u) << what << ": " << command;
        for (const Values &have : environments) EXPECT_EQ(have, right_[app]) << what << ": " << command;
        ++went_on_;
      }
      home.end_machines();
    };
    booted(home.coffer({"machine", "restart", "-q", "-a", app, app == "web" ? "m1" : "o1"}), "restart");
    booted(home.machine_run(app, "extra"), "run");
  }

  void judge_both(const Home &home, const std::string &what, const Key &key) {
    const std::string app = owner(key);
    if (app.empty()) {
      judge(home, what, "web", Named::kAnything);
      return;
    }
    judge(home, what, app, Named::kApp);
    judge(home, what, app == "web" ? "other" : "web", Named::kApp, true);
  }

  void change(const Key &key, const std::optional<Bytes> &value, const std::string &how) {
    const auto home = copy();
    home->write(key, value);
    const Dump after = home->dump();
    const auto at = after.find(key);
    ASSERT_TRUE(value ? at != after.end() && at->second == *value : at == after.end()) << "was not applied";
    judge_both(*home, how + " " + owner(key) + " " + key.name, key);
  }

  // All of `cases`, or a sample of them in their order.
  template <class T>
  std::vector<T> some(std::vector<T> cases, size_t n) {
    std::vector<T> out;
    if (kAll) n = cases.size();
    std::ranges::sample(cases, std::back_inserter(out), static_cast<std::ptrdiff_t>(n), random_);
    return out;
  }

  void TearDown() override {
    std::printf("%d commands refused, %d went on with the right values\n", refused_, went_on_);
    EXPECT_GT(refused_, 0);
  }

  TemporaryFolder folder_;
  std::unique_ptr<Home> base_;
  Dump now_;
  std::vector<Dump> history_;
  std::map<std::string, Values> right_;
  std::map<std::string, std::string> list_, space_of_;
  std::mt19937_64 random_{seed()};
  int refused_ = 0, went_on_ = 0;

 private:
  static uint64_t seed() {
    const char *given = std::getenv("COFFER_TAMPER_SEED");
    return given ? std::strtoull(given, nullptr, 10) : 1;
  }
};

std::string kind(const Key &key) {
  return key.space == "apps" ? "apps" : key.name.substr(0, key.name.find('/'));
}

TEST_P(Tamper, TheUntouchedVaultWorks) {
  const auto home = copy();
  judge(*home, "untouched", "web", Named::kApp, true);
  judge(*home, "untouched", "other", Named::kApp, true);
  EXPECT_EQ(home->coffer({"vault", "check"}).code, 0);
  refused_ = 1;
}

TEST_P(Tamper, AFlippedByteIsRefusedOrWithoutEffect) {
  struct Flip {
    Key key;
    size_t at;
    uint8_t bits;
  };
  std::vector<Flip> flips;
  for (const auto &[key, value] : now_) {
    std::set<size_t> places = {0, 4, value.size() / 2, value.size() - 1};
    if (kAll && value.size() < 200)
      for (size_t i = 0; i < value.size(); ++i) places.insert(i);
    for (int i = 0; i < 8; ++i) places.insert(random_() % value.size());
    for (const size_t at : places)
      if (at < value.size()) flips.push_back({key, at, static_cast<uint8_t>(1u << (random_() % 8))});
  }
  for (const Flip &f : some(flips, 40)) {
    Bytes value = now_.at(f.key);
    value[f.at] ^= f.bits;
    change(f.key, value, "flipped byte " + std::to_string(f.at) + " of");
  }
}

TEST_P(Tamper, ADeletedKeyIsRefusedOrWithoutEffect) {
  std::vector<Key> keys;
  for (const auto &[key, value] : now_) keys.push_back(key);
  for (const Key &key : some(keys, 25)) change(key, std::nullopt, "deleted");
}

TEST_P(Tamper, AValueOfAnotherKeyOrTimeIsRefusedOrWithoutEffect) {
  std::vector<std::pair<Key, Bytes>> swaps;
  for (const auto &[key, value] : now_) {
    std::set<Bytes> others;
    for (const auto &[other, bytes] : now_)
      if (kind(other) == kind(key)) others.insert(bytes);
    for (const Dump &then : history_)
      if (const auto at = then.find(key); at != then.end()) others.insert(at->second);
    others.erase(value);
    for (const Bytes &bytes : others) swaps.emplace_back(key, bytes);
  }
  for (const auto &[key, value] : some(swaps, 40))
    change(key, value, "another value of " + kind(key) + " for");
}

TEST_P(Tamper, ACutOrLengthenedValueIsRefusedOrWithoutEffect) {
  std::vector<std::pair<Key, Bytes>> cases;
  for (const auto &[key, value] : now_) {
    for (const size_t size : {size_t{0}, size_t{3}, value.size() / 2, value.size() - 1})
      cases.emplace_back(
          key,
          Bytes(value.begin(), value.begin() + static_cast<std::ptrdiff_t>(std::min(size, value.size()))));
    Bytes longer = value;
    longer.push_back(0);
    cases.emplace_back(key, std::move(longer));
  }
  for (const auto &[key, value] : some(cases, 30))
    if (value != now_.at(key)) change(key, value, "cut or lengthened to " + std::to_string(value.size()));
}

TEST_P(Tamper, YesterdaysVaultIsRefusedUntilTheNewerOneIsBack) {
  const auto home = copy();
  copy_vault(home->path(), folder_.path() / "today");
  copy_vault(folder_.path() / "yesterday", home->path());
  for (const char *app : {"web", "other"}) {
    for (const Argv &command :
         {Argv{"secrets", "list", "-a", app}, Argv{"secrets", "set", "-a", app, "S_X=1"},
          Argv{"secrets", "set", "-a", app, "S_X=1", "--stage"}, Argv{"secrets", "unset", "-a", app, "S_A"},
          Argv{"secrets", "deploy", "-a", app},
          Argv{"machine", "restart", "-q", "-a", app, app[0] == 'w' ? "m1" : "o1"},
          Argv{"run", "-a", app, "--", "/bin/true"}}) {
      const Outcome o = home->coffer(command);
      ASSERT_NE(o.code, 0) << command[1];
      refused(command[1], o, app, Named::kApp);
    }
    const Outcome o = home->machine_run(app, "extra");
    ASSERT_NE(o.code, 0);
    refused("run", o, app, Named::kApp);
    EXPECT_TRUE(home->environments().empty());
  }
  const Outcome check = home->coffer({"vault", "check"});
  EXPECT_EQ(check.code, 1);
  EXPECT_TRUE(check.out.contains("App web: manifest head: ")) << check.out;
  EXPECT_TRUE(check.out.contains("App other: manifest head: ")) << check.out;
  copy_vault(folder_.path() / "today", home->path());
  judge(*home, "healed", "web", Named::kApp, true);
  judge(*home, "healed", "other", Named::kApp, true);
}

TEST_P(Tamper, ARunningMachineGoesOnWhenItsRestartIsRefused) {
  const auto home = copy();
  home->must({"machine", "start", "-a", "web", "m1"});
  for (const auto &[key, value] : now_)
    if (key.space == space_of_["web"] && kind(key) == "record") home->write(key, Bytes(value.size(), 7));
  const Outcome o = home->coffer({"machine", "restart", "-q", "-a", "web", "m1"});
  ASSERT_NE(o.code, 0);
  refused("restart", o, "web", Named::kApp);
  ASSERT_EQ(home->environments().size(), 1u);
  EXPECT_EQ(home->environments()[0], right_["web"]);
}

TEST_P(Tamper, ALaunchSpecWithAnotherCommandIsRefused) {
  const std::string id = base_->machine_id("web", "m1");
  int changed = 0;
  for (const auto &[key, value] : now_) {
    if (key.space != space_of_["web"] || !key.name.starts_with("spec/" + id)) continue;
    Bytes bytes = value;
    const std::string_view text = as_text(value);
    const size_t at = text.find(kMarker);
    ASSERT_NE(at, std::string_view::npos);
    bytes[at] ^= 1;
    change(key, bytes, "another command in");
    ++changed;
  }
  EXPECT_GT(changed, 1);
  // The newest one is what a restart starts from: it was refused at least.
  EXPECT_GE(refused_, 1);
}

TEST_P(Tamper, ALaunchSpecOfAnotherMachineOrOfALowerNumberIsRefused) {
  const std::string id = base_->machine_id("web", "m1"), other = base_->machine_id("web", "m2");
  std::vector<std::pair<Key, Bytes>> own, others;
  for (const auto &entry : now_) {
    if (entry.first.name.starts_with("spec/" + id)) own.push_back(entry);
    if (entry.first.name.starts_with("spec/" + other)) others.push_back(entry);
  }
  ASSERT_GE(own.size(), 2u);
  ASSERT_GE(others.size(), 2u);
  change(own.back().first, others.back().second, "the spec of another Machine in");
  EXPECT_GE(refused_, 1);
  const int before = refused_;
  change(own.back().first, own.front().second, "an older spec in");
  EXPECT_GT(refused_, before);
}

TEST_P(Tamper, FlippedBytesOfTheBackendsOwnFilesAreRefusedOrWithoutEffect) {
  std::vector<fs::path> files;
  for (const auto &entry : fs::recursive_directory_iterator(base_->path()))
    if (entry.is_regular_file() && fs::file_size(entry.path()) > 0 &&
        fs::relative(entry.path(), base_->path()).native().starts_with("vault"))
      files.push_back(fs::relative(entry.path(), base_->path()));
  ASSERT_FALSE(files.empty());
  const bool one_space_a_folder = std::string_view(GetParam()) == "file";
  for (int i = 0; i < (kAll ? 600 : 40); ++i) {
    const fs::path file = files[random_() % files.size()];
    const auto home = copy();
    std::string bytes = read_all(home->path() / file);
    const size_t at = random_() % bytes.size();
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random_() % 8));
    write_all(home->path() / file, bytes);
    const std::string what = "flipped byte " + std::to_string(at) + " of " + file.string();
    for (const char *app : {"web", "other"}) {
      const std::string &others = space_of_[app[0] == 'w' ? "other" : "web"];
      judge(*home, what, app, Named::kAnything, one_space_a_folder && file.native().contains(others));
    }
  }
  refused_ += 1;  // a sample may well hit unused bytes alone
}

INSTANTIATE_TEST_SUITE_P(Storage, Tamper, testing::Values("sqlite", "file"),
                         [](const auto &test) { return std::string(test.param); });

}  // namespace
}  // namespace coffer::tests

int main(int argc, char **argv) {
  if (argc == 3 && !std::strcmp(argv[1], "--app")) coffer::tests::be_app(0);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
