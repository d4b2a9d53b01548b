// kill_campaign: `kill -9` of the CLI at random moments, and what must hold afterwards.
//
// Each round kills one command after a random part of the time that it takes.  Then:
//   * reading commands work, and the next writing command ends with 0;
//   * a write that was acknowledged (exit 0 seen) is there byte for byte, any other one wholly or not at all:
//     compared with the environment of the Machines' own processes;
//   * every Machine that is wanted runs, as one process; there is no other process, supervisor, Machine
//   folder,
//     container, file secret, agent state or standing grant;
//   * `coffer vault check` finds the vault whole.
//
// With `--agent` there is a `coffer agent`, which is killed as well, and started again as a service manager
// would. Then the Machines are as they are wanted before any other command is given.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "coffer/config/engine_config.h"
#include "coffer/plugin_host/storage.h"
#include "platform.h"

namespace coffer::tests {
namespace {

namespace fs = std::filesystem;

struct Settings {
  std::string coffer;
  int rounds = 200;
  uint64_t seed = 0;
  std::vector<std::string> storages = {"sqlite", "file"};
  std::string only;  // one operation, or one group: keys
  std::string runtime = "process", image = "coffer-test/static";
  bool agent = false;
  bool verbose = false;
};

constexpr const char *kApp = "web";
constexpr int kImportLines = 2000;
constexpr const char *kAppDies = "(an app dies)";
constexpr auto kAgentPatience = std::chrono::seconds(60);

using Secrets = std::map<std::string, std::string>;

// What Coffer should hold: secrets, and Machines by name, true = started.
struct Model {
  Secrets secrets;
  std::map<std::string, bool> machines;
};

struct Operation {
  std::string name;
  // Prepares (with acknowledged commands), and fills in what to kill and what holds if it is done.
  std::function<void(Argv &command, std::string &input, Model &done)> prepare;
  double seconds = 0;  // how long it takes; learned
  int rounds = 0, killed = 0, agent_killed = 0, acknowledged = 0, done = 0, undone = 0;
};

class Campaign {
 public:
  Campaign(const Settings &settings, const std::string &storage)
      : settings_(settings), storage_(storage), random_(settings.seed), home_(folder_.path() / "home") {
    marker_ = "campaign-" + std::to_string(random_());
    platform_ = settings.runtime == "docker" ? docker_platform(home_, settings.image, marker_)
                                             : process_platform(home_);
  }

  ~Campaign() {
    stop_agent();
    for (const Process &p : processes_with(marker_)) ::kill(p.pid, SIGKILL);
    platform_->clean_up();
  }

  bool run_all() {
    Argv init = platform_->init();
    init.insert(init.begin(), {"init", "--storage", storage_});
    coffer(init);
    std::ofstream(home_ / "engine.toml", std::ios::app) << "\n[deploy]\nsmoke_time = \"0s\"\n";
    platform_->set_up();
    start_agent();
    coffer({"apps", "create", kApp});
    if (!platform_->file().empty()) {
      model_.secrets["S_FILE"] = value(false);
      coffer({"secrets", "set", "-a", kApp, "S_FILE=" + model_.secrets["S_FILE"], "--stage"});
    }
    for (const char *name : {"m1", "m2"}) {
      coffer(machine_run(name));
      model_.machines[name] = true;
    }
    std::vector<Operation> operations = all_operations();
    if (!settings_.only.empty())
      std::erase_if(operations, [&](const Operation &o) {
        return o.name != settings_.only && !o.name.starts_with(settings_.only + " ");
      });
    int round = -1;
    try {
      for (Operation &o : operations) learn(o);
      for (round = 0; round < settings_.rounds; ++round)
        play(operations[static_cast<size_t>(round) % operations.size()], round);
    } catch (const Broken &b) {
      std::printf("FAILED on storage-%s, %s, seed %" PRIu64 ", round %d: %s\n%s", storage_.c_str(),
                  platform_->name().c_str(), settings_.seed, round, b.what.c_str(), story_.c_str());
      std::printf("  kept: %s\n", folder_.path().c_str());
      folder_.keep();
      print(operations);
      return false;
    }
    print(operations);
    return true;
  }

 private:
  // ---- commands ----
  Outcome attempt(Argv words, std::string_view input = {}, const Kill *kill = nullptr) {
    words.insert(words.begin(), settings_.coffer);
    Outcome o = run(words, environment(), input, kill);
    char line[160];
    std::snprintf(line, sizeof line, "  coffer %s %s ...: exit %d, signal %d, %.3f s\n", words[1].c_str(),
                  words.size() > 2 ? words[2].c_str() : "", o.code, o.signal, o.seconds);
    story_ += line;
    if (o.code != 0 && !o.err.empty()) story_ += "    " + o.err;
    if (settings_.verbose) std::fputs(line, stdout);
    return o;
  }

  std::vector<std::string> environment() const {
    std::vector<std::string> out = {"COFFER_HOME=" + home_.string(), "PATH=/usr/bin:/bin"};
    if (const char *engine = std::getenv("DOCKER_HOST")) out.push_back(std::string("DOCKER_HOST=") + engine);
    return out;
  }

  std::string coffer(const Argv &words, std::string_view input = {}) {
    Outcome o = attempt(words, input);
    if (o.code != 0) throw Broken{"`coffer " + words[0] + " " + words[1] + "` failed"};
    return std::move(o.out);
  }

  Argv machine_run(const std::string &name) {
    // Takes a moment to end, so that kills also hit while an instance is stopping.
    Argv words = {"machine", "run", "-a", kApp, "--name", name};
    std::ranges::copy(platform_->app(marker_, number(0, 40)), std::back_inserter(words));
    return words;
  }

  int number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  // Any bytes but NUL; `line`: what fits an import line as it is.
  std::string value(bool line) {
    std::string out(static_cast<size_t>(number(0, 60)), '\0');
    for (char &c : out) c = static_cast<char>(line ? number('0', 'z') : number(1, 255));
    if (line) std::erase_if(out, [](char c) { return c == '\\' || c == '`'; });
    return out;
  }

  // ---- what is killed ----
  std::vector<Operation> all_operations() {
    const auto set = [this](bool stage) {
      return [this, stage](Argv &command, std::string &, Model &done) {
        command = {"secrets", "set", "-a", kApp};
        for (int i = 0; i < 3; ++i) {
          const std::string name = "S_" + std::to_string(number(1, 8)) + "_" + std::to_string(i);
          done.secrets[name] = value(false);
          command.push_back(name + "=" + done.secrets[name]);
        }
        if (!platform_->file().empty()) {
          done.secrets["S_FILE"] = value(false);
          command.push_back("S_FILE=" + done.secrets["S_FILE"]);
        }
        if (stage) command.push_back("--stage");
      };
    };
    const auto import = [this](bool stage) {
      return [this, stage](Argv &command, std::string &input, Model &done) {
        command = {"secrets", "import", "-a", kApp};
        for (int i = 0; i < kImportLines; ++i) {
          const std::string name = "S_I" + std::to_string(i);
          done.secrets[name] = "'" + value(true);
          input += name + "=" + "\"" + done.secrets[name] + "\"\n";
        }
        if (stage) command.push_back("--stage");
      };
    };
    const auto machine = [this](const char *verb, bool from, bool to) {
      return [this, verb, from, to](Argv &command, std::string &, Model &done) {
        if (!from) coffer({"machine", "stop", "-a", kApp, "m2"});
        model_.machines["m2"] = from;
        command = {"machine", verb, "-a", kApp, "m2"};
        done.machines["m2"] = to;
      };
    };
    std::vector<Operation> all = {
        {"set --stage", set(true)},
        {"import", import(true)},
        {"machine run",
         [this](Argv &command, std::string &, Model &done) {
           command = machine_run("m3");
           done.machines["m3"] = true;
         }},
        {"set", set(false)},
        {"deploy",
         [this](Argv &command, std::string &, Model &done) {
           done.secrets["S_D"] = model_.secrets["S_D"] = value(false);
           coffer({"secrets", "set", "-a", kApp, "S_D=" + model_.secrets["S_D"], "S_E=" + count_up(done),
                   "--stage"});
           command = {"secrets", "deploy", "-a", kApp};
         }},
        {"import, no stage", import(false)},
        {"machine restart", machine("restart", true, true)},
        {"machine stop", machine("stop", true, false)},
        {"machine start", machine("start", false, true)},
        {"machine destroy",
         [this](Argv &command, std::string &, Model &done) {
           coffer(machine_run("m3"));
           model_.machines["m3"] = true;
           command = {"machine", "destroy", "--force", "-a", kApp, "m3"};
           done.machines.erase("m3");
         }},
        {"run",
         [](Argv &command, std::string &, Model &) { command = {"run", "-a", kApp, "--", "/bin/true"}; }},
        {"keys rotate",
         [](Argv &command, std::string &, Model &) { command = {"keys", "rotate", "-a", kApp}; }},
        {"keys rewrap", [](Argv &command, std::string &, Model &) { command = {"keys", "rewrap"}; }},
        {"keys rotate --now",
         [](Argv &command, std::string &, Model &) { command = {"keys", "rotate", "-a", kApp, "--now"}; }},
        {"vault backup",
         [this](Argv &command, std::string &, Model &) {
           command = {"vault", "backup", "--force", (folder_.path() / "backup").string()};
         }},
        {kAppDies, [](Argv &command, std::string &, Model &) { command.clear(); }},
    };
    // What stores and boots nothing is not told by how Machines are.
    if (settings_.agent)
      std::erase_if(all, [](const Operation &o) {
        return o.name == "set --stage" || o.name.starts_with("import") || o.name == "deploy" ||
               o.name == "run" || o.name == "keys rotate" || o.name == "keys rewrap" ||
               o.name == "vault backup";
      });
    else
      std::erase_if(all, [](const Operation &o) { return o.name == kAppDies; });
    // Containers take their time: only what touches them.
    if (settings_.runtime == "docker")
      std::erase_if(all, [](const Operation &o) {
        return o.name == "set --stage" || o.name.starts_with("import") || o.name == "run" ||
               o.name == "keys rotate" || o.name == "keys rewrap" || o.name == "vault backup";
      });
    return all;
  }

  std::string count_up(Model &done) {
    const std::string next = std::to_string(++counter_);
    model_.secrets["S_E"] = done.secrets["S_E"] = next;
    return next;
  }

  // ---- a round ----
  void learn(Operation &o) {
    for (int i = 0; i < (settings_.runtime == "docker" ? 1 : 2); ++i) {
      Argv command;
      std::string input;
      Model done = model_;
      o.prepare(command, input, done);
      const Outcome outcome = command.empty() ? app_dies() : attempt(command, input);
      if (outcome.code != 0) throw Broken{"`" + o.name + "` failed without a kill"};
      o.seconds = o.seconds == 0 ? outcome.seconds : (o.seconds + outcome.seconds) / 2;
      model_ = done;
      settle();
    }
  }

  void play(Operation &o, int round) {
    story_.clear();
    Argv command;
    std::string input;
    Model done = model_;
    o.prepare(command, input, done);
    // `done` was copied before prepare() changed the present.
    for (const auto &[name, started] : model_.machines)
      if (!done.machines.contains(name) && o.name != "machine destroy") done.machines[name] = started;
    const Kill kill{std::uniform_real_distribution<double>(0, 1.1 * o.seconds)(random_), number(0, 1) == 1};
    // The agent is killed in the midst of the command, or while it tidies up behind one that was killed.
    const bool kill_cli = !command.empty() && (!settings_.agent || round % 2 == 0);
    const bool kill_agent = settings_.agent && (!kill_cli || number(0, 1) == 1);
    const double agent_after =
        kill_cli ? kill.after_seconds + std::uniform_real_distribution<double>(0, 3)(random_)
                 : kill.after_seconds;
    const std::string moment = kill_cli ? std::string(" killed ") + (kill.group ? "with its group " : "") +
                                              "after " + std::to_string(kill.after_seconds) + " s"
                                        : "";
    story_ += "  " + o.name + ":" + moment;
    if (kill_agent) story_ += " agent killed after " + std::to_string(agent_after) + " s";
    story_ += "\n";
    std::thread killer;
    if (kill_agent) killer = std::thread([&] { restart_agent(agent_after); });
    Outcome outcome;
    try {
      outcome = command.empty() ? app_dies() : attempt(command, input, kill_cli ? &kill : nullptr);
    } catch (const Broken &) {
      if (killer.joinable()) killer.join();
      throw;
    }
    if (killer.joinable()) killer.join();
    if (kill_agent) ++o.agent_killed;
    ++o.rounds;
    const bool acknowledged = outcome.code == 0;
    if (acknowledged) {
      ++o.acknowledged;
      o.seconds = 0.8 * o.seconds + 0.2 * outcome.seconds;
    } else if (outcome.signal == SIGKILL) {
      ++o.killed;
    } else {
      throw Broken{"`" + o.name + "` failed by itself"};
    }

    if (settings_.agent) agent_ends_it(acknowledged ? std::nullopt : std::optional(model_), done);

    // Reading works at once.
    coffer({"secrets", "list", "-a", kApp});
    coffer({"machine", "list", "-a", kApp});
    // The next writing command goes on.
    if (round % 3 == 2) {
      coffer(machine_run("next"));
      const std::map<std::string, std::string> states = listed();
      check_processes(states);
      if (!states.contains("next") || states.at("next") != "started")
        throw Broken{"Machine next does not run"};
      for (const auto &[name, state] : states)
        if (state != "started" && (model_.machines.contains(name) ? model_.machines[name] : true) &&
            (done.machines.contains(name) ? done.machines[name] : true))
          throw Broken{"Machine " + name + " is " + state + " after the next command"};
      coffer({"machine", "destroy", "--force", "-a", kApp, "next"});
    }
    const std::string next = std::to_string(round) + "." + std::to_string(counter_);
    coffer({"secrets", "set", "-a", kApp, "S_NEXT=" + next});
    const bool is_done = check(acknowledged ? std::nullopt : std::optional(model_), done, next);
    if (!acknowledged) ++(is_done ? o.done : o.undone);
    model_ = is_done ? done : model_;
    model_.secrets["S_NEXT"] = next;
    settle();
  }

  // ---- the agent ----
  void start_agent() {
    if (!settings_.agent) return;
    const std::vector<std::string> variables = environment();
    std::vector<char *> words;
    for (const std::string &v : variables) words.push_back(const_cast<char *>(v.c_str()));
    words.push_back(nullptr);
    const fs::path log = folder_.path() / "agent.log";
    agent_ = fork();
    if (agent_ != 0) return;
    const int null = open("/dev/null", O_RDWR), out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    for (const auto &[from, to] : {std::pair(null, 0), std::pair(out, 1), std::pair(out, 2)}) dup2(from, to);
    execle(settings_.coffer.c_str(), "coffer", "agent", nullptr, words.data());
    _exit(127);
  }

  void stop_agent() {
    if (agent_ <= 0) return;
    ::kill(agent_, SIGKILL);
    waitpid(agent_, nullptr, 0);
    agent_ = 0;
  }

  void restart_agent(double after_seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(after_seconds));
    stop_agent();
    start_agent();
  }

  // Machine m1 loses its app to `kill -9`; over when it has another one.
  Outcome app_dies() {
    const auto begin = std::chrono::steady_clock::now();
    listed();
    const std::string id = id_of_["m1"];
    const auto of_m1 = [&]() -> pid_t {
      const std::vector<Process> all = processes_with(marker_);
      const auto at = std::ranges::find(all, id, &Process::machine);
      return at == all.end() ? 0 : at->pid;
    };
    const pid_t before = of_m1();
    if (!before) throw Broken{"Machine m1 has no app"};
    ::kill(before, SIGKILL);
    eventually([&] {
      if (const pid_t now = of_m1(); !now || now == before) throw Broken{"Machine m1 is not started again"};
    });
    Outcome o;
    o.code = 0;
    o.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return o;
  }

  // Until `body` does not throw Broken.  What is waited for is the agent's doing, of which nobody is told.
  template <class F>
  void eventually(F &&body) {
    const auto deadline = std::chrono::steady_clock::now() + kAgentPatience;
    for (;;) {
      const std::string story = story_;
      try {
        return body();
      } catch (const Broken &b) {
        if (std::chrono::steady_clock::now() > deadline)
          throw Broken{b.what + ", and the agent leaves it so"};
      }
      story_ = story;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }

  // Without any further command that changes something.
  void agent_ends_it(const std::optional<Model> &undone, const Model &done) {
    const auto begin = std::chrono::steady_clock::now();
    eventually([&] { check(undone, done, std::nullopt); });
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    slowest_ = std::max(slowest_, took);
    story_ += "  the agent had it as wanted after " + std::to_string(took) + " s\n";
    int status = 0;
    if (waitpid(agent_, &status, WNOHANG) == agent_) {
      agent_ = 0;
      throw Broken{"the agent ended by itself, see agent.log"};
    }
  }

  // Back to two started Machines.
  void settle() {
    if (model_.machines.contains("m3")) coffer({"machine", "destroy", "--force", "-a", kApp, "m3"});
    model_.machines.erase("m3");
    if (!model_.machines["m2"]) coffer({"machine", "start", "-a", kApp, "m2"});
    model_.machines["m2"] = true;
  }

  // ---- checks ----
  std::map<std::string, std::string> listed() {  // name -> state
    const std::string json = coffer({"machine", "list", "-j", "-a", kApp});
    const auto names = json_fields(json, "name"), states = json_fields(json, "state");
    ids_ = json_fields(json, "id");
    instances_ = json_fields(json, "instance_id");
    std::map<std::string, std::string> out;
    for (size_t i = 0; i < names.size(); ++i) {
      if (!out.emplace(names[i], states[i]).second) throw Broken{"Machine " + names[i] + " is there twice"};
      id_of_[names[i]] = ids_[i];
    }
    return out;
  }

  // One process and one supervisor for each started Machine, and nothing else anywhere.
  std::vector<Process> check_processes(const std::map<std::string, std::string> &states) {
    std::vector<Process> running = processes_with(marker_);
    size_t started = 0;
    for (const auto &[name, state] : states) {
      const auto n = std::ranges::count(running, id_of_[name], &Process::machine);
      started += state == "started";
      if (n != (state == "started" ? 1 : 0))
        throw Broken{"Machine " + name + " is " + state + ", and has " + std::to_string(n) + " processes"};
    }
    if (running.size() != started) throw Broken{"a process belongs to no listed Machine"};
    platform_->check({instances_.begin(), instances_.end()}, started);
    return running;
  }

  // The stores hold the listed Machines and no others.
  void check_stores() {
    const auto config = read_engine_config(home_ / "engine.toml");
    if (!config) throw Broken{config.error().message};
    const std::set<std::string> wanted(ids_.begin(), ids_.end());
    std::set<std::string> in_agent, in_vault, granted;
    const auto each_space = [](const PluginConfig &plugin, std::string_view prefix, std::string_view keys,
                               const std::function<void(const Stored &, std::string id)> &each) {
      const auto store = Storage::open(plugin);
      if (!store) throw Broken{store.error().message};
      const auto spaces = store->spaces(prefix);
      if (!spaces) throw Broken{spaces.error().message};
      for (const std::string &space : *spaces) {
        const auto listed = store->list(space, keys, true, [&](const Stored &s) {
          each(s, s.key.substr(keys.size()));
          return true;
        });
        if (!listed) throw Broken{listed.error().message};
      }
    };
    each_space(config->agent_storage, "machines", "",
               [&](const Stored &, std::string id) { in_agent.insert(id); });
    each_space(config->storage, "app-", "machine/",
               [&](const Stored &, std::string id) { in_vault.insert(id); });
    each_space(config->keys_storage, "app-", "grant/", [&](const Stored &s, std::string id) {
      if (s.value.empty() || s.value.back() == 0) granted.insert(id);  // the last byte: revoked
    });
    if (in_agent != wanted) throw Broken{"the agent's store holds other Machines than are listed"};
    if (in_vault != wanted) throw Broken{"the vault holds other Machines than are listed"};
    if (granted != wanted) throw Broken{"the standing grants are not those of the listed Machines"};
  }

  // True: `done` holds; false: `undone` does.
  bool check(const std::optional<Model> &undone, const Model &done, const std::optional<std::string> &next) {
    const auto states = listed();
    const std::vector<Process> running = check_processes(states);
    check_stores();
    if (coffer({"vault", "check"}).find("whole") == std::string::npos) throw Broken{"the vault is not whole"};
    const auto as_listed = [&](const Model &m) {
      return m.machines.size() == states.size() && std::ranges::all_of(m.machines, [&](const auto &machine) {
               return states.contains(machine.first) &&
                      (states.at(machine.first) == "started") == machine.second;
             });
    };
    const auto has = [&](const Process &p, const Model &m) {
      Secrets have, wanted = m.secrets;
      if (next) wanted["S_NEXT"] = *next;
      for (const auto &[name, v] : p.env)
        if (name.starts_with("S_")) have.emplace(name, v);
      if (!platform_->file().empty())
        have.emplace("S_FILE", read_all("/proc/" + std::to_string(p.pid) + "/root" + platform_->file()));
      return have == wanted;
    };
    const auto holds = [&](const Model &m) {
      return as_listed(m) && std::ranges::all_of(running, [&](const Process &p) { return has(p, m); });
    };
    if (holds(done)) return true;
    if (undone && holds(*undone)) return false;
    // A roll-out that was cut off is gone on with by the next writing command; until then each Machine is one
    // or the other.
    if (!next && undone && (as_listed(done) || as_listed(*undone)) &&
        std::ranges::all_of(running, [&](const Process &p) { return has(p, done) || has(p, *undone); })) {
      ++mixed_;
      return false;
    }
    std::string text = undone ? "neither all nor nothing is there:" : "what was acknowledged is not there:";
    for (const auto &[name, state] : states) text += " " + name + " " + state;
    throw Broken{text};
  }

  void print(const std::vector<Operation> &operations) const {
    std::printf("\nstorage-%s, %s%s, seed %" PRIu64 "\n%-18s %7s %7s %13s %7s %7s %9s\n", storage_.c_str(),
                platform_->name().c_str(), settings_.agent ? ", agent" : "", settings_.seed, "command",
                "rounds", "killed", "acknowledged", "done", "undone", "takes");
    Operation sum;
    for (const Operation &o : operations) {
      std::printf("%-18s %7d %7d %13d %7d %7d %6.0f ms\n", o.name.c_str(), o.rounds, o.killed, o.acknowledged,
                  o.done, o.undone, o.seconds * 1000);
      sum.rounds += o.rounds, sum.killed += o.killed, sum.acknowledged += o.acknowledged;
      sum.done += o.done, sum.undone += o.undone, sum.agent_killed += o.agent_killed;
    }
    std::printf("%-18s %7d %7d %13d %7d %7d   recovered %d of %d\n", "all", sum.rounds, sum.killed,
                sum.acknowledged, sum.done, sum.undone, sum.done + sum.undone, sum.killed);
    if (settings_.agent)
      std::printf(
          "agent killed %d times; Machines as wanted within %.1f s; roll-outs left to the next command: %d\n",
          sum.agent_killed, slowest_, mixed_);
    std::fflush(stdout);
  }

  const Settings &settings_;
  const std::string storage_;
  std::mt19937_64 random_;
  TemporaryFolder folder_;
  const fs::path home_;
  std::string marker_;
  Model model_;
  uint64_t counter_ = 0;
  std::vector<std::string> ids_, instances_;
  std::map<std::string, std::string> id_of_;
  std::string story_;  // of the round
  std::unique_ptr<Platform> platform_;
  pid_t agent_ = 0;
  double slowest_ = 0;  // of what was left to the agent
  int mixed_ = 0;       // rounds in which it left a roll-out half done
};

constexpr const char *kHelp =
    "kill_campaign COFFER [--rounds N] [--seed N] [--storage sqlite|file] [--only COMMAND] [--agent]\n"
    "              [--runtime docker [--image IMAGE]] [--verbose]\n"
    "\n"
    "kill -9 of COFFER at N random moments (default 200) on each storage, and what must hold afterwards.\n"
    "--agent: beside `coffer agent`, which is killed too; Machines are looked after without a further "
    "command.\n"
    "--runtime docker: on the engine at DOCKER_HOST, as root; IMAGE holds tests/docker/app.c.\n"
    "ctest runs 40 rounds with a new seed each time; the seed of a failure repeats its choices.\n";

int main_of(int argc, char **argv) {
  if (argc == 4 && !std::strcmp(argv[1], "--app")) be_app(std::atoi(argv[3]));
  Settings s;
  s.seed = std::random_device{}();
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] { return i + 1 < argc ? std::string(argv[++i]) : std::string(); };
    if (word == "--rounds")
      s.rounds = std::atoi(next().c_str());
    else if (word == "--seed")
      s.seed = std::strtoull(next().c_str(), nullptr, 10);
    else if (word == "--storage")
      s.storages = {next()};
    else if (word == "--only")
      s.only = next();
    else if (word == "--runtime")
      s.runtime = next();
    else if (word == "--image")
      s.image = next();
    else if (word == "--agent")
      s.agent = true;
    else if (word == "--verbose")
      s.verbose = true;
    else if (word[0] != '-' && s.coffer.empty())
      s.coffer = fs::absolute(word);
    else
      return std::fputs(kHelp, stdout), word == "--help" ? 0 : 2;
  }
  if (s.coffer.empty()) return std::fputs(kHelp, stdout), 2;
  bool good = true;
  for (const std::string &storage : s.storages) {
    try {
      good = Campaign(s, storage).run_all() && good;
    } catch (const Broken &b) {
      std::printf("FAILED before Coffer was set up: %s\n", b.what.c_str());
      good = false;
    }
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace coffer::tests

int main(int argc, char **argv) { return coffer::tests::main_of(argc, argv); }
