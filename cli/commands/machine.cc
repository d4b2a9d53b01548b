// coffer machine run | list | status | start | stop | restart | destroy | logs | exec | wait
#include <unistd.h>

#include <algorithm>
#include <map>

#include "../app_file.h"
#include "../files.h"
#include "../output.h"
#include "coffer/base/names.h"
#include "coffer/base/text.h"
#include "coffer/config/dotenv.h"
#include "coffer/config/machine_options.h"
#include "commands.h"

namespace coffer::cli {
namespace {

struct Opened {
  std::unique_ptr<Engine> engine;
  App app;
  Control *control;
};

Result<Opened> open(Arguments &a) {
  Opened o;
  COFFER_TRY(o.engine, Engine::open(a));
  COFFER_TRY(o.app, o.engine->app());
  COFFER_TRY(o.control, o.engine->control());
  return o;
}

// The fields that every command tells of a Machine; the object stays open.
void begin_machine(JsonWriter &j, const MachineSummary &m, const EngineConfig &config) {
  j.begin_object().field("id", m.id).field("name", m.name).field("state", to_string(m.state));
  if (!config.runtime.plugin.empty()) j.field("runtime", config.runtime.plugin);
  j.field("image", m.image)
      .field("instance_id", m.instance_id)
      .field("release", m.release)
      .field("secrets_version", m.version)
      .field("drift", m.drift)
      .field("created_at", rfc3339(m.created_ms))
      .field("updated_at", rfc3339(m.updated_ms));
}

void write_machine(JsonWriter &j, const MachineSummary &m, const EngineConfig &config) {
  begin_machine(j, m, config);
  j.end_object();
}

void told(Arguments &a, const Opened &o, const MachineSummary &m, std::string_view what) {
  if (a.json) {
    JsonWriter j;
    write_machine(j, m, o.engine->config());
    print_json(j);
  } else {
    print("Machine " + m.name + " (" + m.id + ") " + std::string(what));
  }
}

std::unexpected<Error> usage(std::string what) {
  return fail(ErrorCode::kInvalidArgument, std::move(what), "See `coffer machine run --help`.");
}

// GUEST_PATH=SECRET[:MODE]
Result<FileBinding> parse_file(std::string_view text, size_t n) {
  const std::string which = "--file " + std::to_string(n);
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return usage(which + ": expected GUEST_PATH=SECRET[:MODE]");
  FileBinding f;
  f.guest_path = text.substr(0, equals);
  std::string_view secret = text.substr(equals + 1);
  if (const size_t colon = secret.find(':'); colon != std::string_view::npos) {
    auto mode = parse_mode(secret.substr(colon + 1));
    if (!mode) return std::unexpected(std::move(mode).error().in(which));
    f.mode = *mode;
    secret = secret.substr(0, colon);
  }
  f.secret = secret;
  if (auto ok = check_secret_name(f.secret); !ok) return std::unexpected(std::move(ok).error().in(which));
  return f;
}

// The option's name and which of them, in front of what is wrong with it.
template <class T>
Result<T> of_option(const std::string &option, Result<T> parsed) {
  if (!parsed) return std::unexpected(std::move(parsed).error().in(option));
  return parsed;
}

// What the options say goes before what the App config says.
Result<void> take_options(const Arguments &a, MachineConfig &c) {
  const std::vector<Port> published = std::exchange(c.ports, {});
  for (size_t i = 0; i < a.ports.size(); ++i) {
    COFFER_TRY(Port p, of_option("-p " + std::to_string(i + 1), parse_port(a.ports[i])));
    c.ports.push_back(std::move(p));
    COFFER_CHECK(of_option("-p " + std::to_string(i + 1), check_ports(c.ports)));
  }
  const std::vector<Port> options = c.ports;
  for (const Port &p : published)
    if (std::ranges::none_of(options, [&](const Port &o) {
          return o.udp == p.udp && (o.port == p.port || o.host_port == p.host_port);
        }))
      c.ports.push_back(p);
  const std::vector<Mount> of_file = std::exchange(c.mounts, {});
  for (size_t i = 0; i < a.mounts.size(); ++i) {
    COFFER_TRY(Mount m, of_option("-v " + std::to_string(i + 1), parse_mount(a.mounts[i])));
    c.mounts.push_back(std::move(m));
  }
  for (const Mount &m : of_file)
    if (std::ranges::find(c.mounts, m.target, &Mount::target) == c.mounts.end()) c.mounts.push_back(m);
  for (size_t i = 0; i < a.cap_drop.size(); ++i) {
    COFFER_TRY(std::string cap,
               of_option("--cap-drop " + std::to_string(i + 1), parse_capability(a.cap_drop[i])));
    if (std::ranges::find(c.cap_drop, cap) == c.cap_drop.end()) c.cap_drop.push_back(std::move(cap));
  }
  if (a.network) {
    COFFER_CHECK(of_option("--network", check_network(*a.network)));
    c.network = *a.network;
  }
  c.read_only = a.read_only;
  if (a.memory) {
    COFFER_TRY(c.memory_bytes, of_option("--memory", parse_memory(*a.memory)));
  }
  if (a.restart) {
    COFFER_TRY(c.restart, of_option("--restart", parse_restart(*a.restart)));
  }
  if (a.stop_signal) {
    COFFER_TRY(c.stop_signal, of_option("--stop-signal", parse_signal(*a.stop_signal)));
  }
  if (a.stop_timeout) {
    COFFER_TRY(c.stop_timeout_ms, of_option("--stop-timeout", parse_stop_timeout(*a.stop_timeout)));
  }
  if (a.entrypoint) {
    COFFER_TRY(c.entrypoint, of_option("--entrypoint", split_command(*a.entrypoint)));
    if (c.entrypoint.empty() || c.entrypoint.front().empty())
      return usage("--entrypoint: no command was given");
  }
  if (!a.words.empty()) c.image = a.words.front();
  if (c.image.empty()) return usage("no image was given, and the App config has no [build] image");
  c.image_name = c.image;
  return {};
}

Result<MachineConfig> machine_config(const Arguments &a, const std::optional<AppConfig> &file) {
  if (!a.name.empty())
    if (auto ok = check_app_name(a.name); !ok)
      return fail(ErrorCode::kInvalidArgument, "--name: a Machine's name is 1 to 63 of a-z, 0-9 and -");
  COFFER_TRY(MachineConfig c, process_config(file.value_or(AppConfig()), a.process));
  COFFER_CHECK(take_options(a, c));
  c.name = a.name;
  c.user = a.user;
  if (!a.process.empty() && !a.tail.empty())
    return usage("--process and a command behind -- cannot both be given");
  if (a.process.empty()) c.argv = a.tail;
  std::map<std::string, std::string> env(c.env.begin(), c.env.end());
  for (size_t i = 0; i < a.env_files.size(); ++i) {
    COFFER_TRY(const SecretBytes text, read_file(a.env_files[i], 16u << 20));
    auto entries = parse_dotenv(text.reveal());
    if (!entries) return std::unexpected(std::move(entries).error().in(a.env_files[i]));
    for (const DotenvEntry &e : *entries) env[e.name] = std::string(as_text(e.value.reveal()));
  }
  for (size_t i = 0; i < a.env.size(); ++i) {
    const size_t equals = a.env[i].find('=');
    if (equals == std::string::npos || !valid_variable(a.env[i].substr(0, equals)))
      return usage("-e " + std::to_string(i + 1) + ": expected NAME=VALUE");
    env[a.env[i].substr(0, equals)] = a.env[i].substr(equals + 1);
  }
  COFFER_CHECK(set_env(c, env));
  for (size_t i = 0; i < a.files.size(); ++i) {
    COFFER_TRY(FileBinding f, parse_file(a.files[i], i + 1));
    c.files.push_back(std::move(f));
  }
  COFFER_CHECK(check_config(c));
  return c;
}

}  // namespace

Result<int> machine_run(Arguments &a) {
  COFFER_TRY(const auto file, find_app_file(a));
  COFFER_TRY(MachineConfig config, machine_config(a, file));
  COFFER_TRY(const Opened o, open(a));
  catch_interrupts();
  if (a.restart && config.restart != RestartPolicy::kNo && !o.engine->remote() &&
      !o.engine->home().agent_runs())
    print_warning("no `coffer agent` runs: until one does, nothing is restarted");
  const bool pull = a.pull || (file && file->pull);
  COFFER_TRY(const Control::Booted ran, o.control->run(o.app, std::move(config), pull));
  for (const std::string &w : ran.warnings) print_warning(w);
  told(a, o, ran.machine, "started");
  return 0;
}

Result<int> machine_list(Arguments &a) {
  COFFER_TRY(const Opened o, open(a));
  COFFER_TRY(const std::vector<MachineSummary> all, o.control->machines(o.app));
  if (a.json) {
    JsonWriter j;
    j.begin_array();
    for (const MachineSummary &m : all) write_machine(j, m, o.engine->config());
    j.end_array();
    print_json(j);
    return 0;
  }
  if (all.empty()) {
    print("App " + o.app.name() + " has no Machines. Run one with `coffer machine run -a " + o.app.name() +
          " IMAGE -- CMD`.");
    return 0;
  }
  std::vector<std::vector<std::string>> table = {
      {"ID", "NAME", "STATE", "IMAGE", "RELEASE", "SECRETS", "UPDATED", "DRIFT"}};
  for (const MachineSummary &m : all) {
    table.push_back({m.id, m.name, std::string(to_string(m.state)), m.image,
                     m.release ? std::to_string(m.release) : "-",
                     m.version ? "v" + std::to_string(m.version) : "-", age(m.updated_ms),
                     m.drift.empty() ? "-" : m.drift});
    if (m.cut_off)
      print_warning("Machine " + m.name + ": a change was cut off; the next command that changes it goes on");
  }
  print_table(table);
  return 0;
}

Result<int> machine_status(Arguments &a) {
  COFFER_TRY(const Opened o, open(a));
  COFFER_TRY(const MachineSummary m, o.control->machine(o.app, a.words.front()));
  if (a.json) {
    JsonWriter j;
    begin_machine(j, m, o.engine->config());
    if (m.exit_code) j.field("exit_code", *m.exit_code).field("exit_signal", m.exit_signal);
    if (!m.message.empty()) j.field("message", printable(m.message));
    j.end_object();
    print_json(j);
    return 0;
  }
  std::vector<std::vector<std::string>> table = {{"Machine", m.name + " (" + m.id + ")"},
                                                 {"State", std::string(to_string(m.state))},
                                                 {"Image", m.image},
                                                 {"Instance", m.instance_id.empty() ? "-" : m.instance_id},
                                                 {"Release", std::to_string(m.release)},
                                                 {"Secrets", "v" + std::to_string(m.version)},
                                                 {"Created", age(m.created_ms)}};
  if (m.started_ms) table.push_back({"Started", age(m.started_ms)});
  if (m.exit_code) {
    table.push_back({"Ended", m.exit_signal ? "by signal " + std::to_string(m.exit_signal)
                                            : "with exit code " + std::to_string(*m.exit_code)});
  }
  if (!m.drift.empty()) table.push_back({"Drift", m.drift});
  if (!m.message.empty()) table.push_back({"Message", printable(m.message)});
  print_table(table);
  return 0;
}

namespace {
Result<int> boot(Arguments &a, bool again) {
  COFFER_TRY(const Opened o, open(a));
  catch_interrupts();
  COFFER_TRY(const MachineSummary m, o.control->machine(o.app, a.words.front()));
  if (m.state == State::kStarted && !again) {
    told(a, o, m, "is started already");
    return 0;
  }
  COFFER_TRY(const Control::Booted ran, o.control->start(o.app, m.id));
  for (const std::string &w : ran.warnings) print_warning(w);
  told(a, o, ran.machine, again ? "restarted" : "started");
  return 0;
}
}  // namespace

Result<int> machine_start(Arguments &a) { return boot(a, false); }
Result<int> machine_restart(Arguments &a) { return boot(a, true); }

Result<int> machine_stop(Arguments &a) {
  COFFER_TRY(const Opened o, open(a));
  COFFER_TRY(const MachineSummary after, o.control->stop(o.app, a.words.front()));
  told(a, o, after, "stopped");
  return 0;
}

Result<int> machine_destroy(Arguments &a) {
  COFFER_TRY(const Opened o, open(a));
  COFFER_TRY(const MachineSummary m, o.control->machine(o.app, a.words.front()));
  if (m.state == State::kStarted && !a.force)
    return fail(ErrorCode::kFailedPrecondition, "Machine " + m.name + " is started",
                "Stop it first, or add --force.");
  COFFER_CHECK(o.control->destroy(o.app, m.id));
  if (a.json) {
    JsonWriter j;
    j.begin_object().field("id", m.id).field("destroyed", true).end_object();
    print_json(j);
  } else {
    print("Machine " + m.name + " (" + m.id + ") destroyed");
  }
  return 0;
}

namespace {
// What a Machine wrote to its stdout or stderr; false: nobody reads it.
bool pass_on(uint32_t stream, ByteSpan data) {
  std::FILE *to = stream == 2 ? stderr : stdout;
  return std::fwrite(data.data(), 1, data.size(), to) == data.size() && std::fflush(to) == 0;
}
}  // namespace

Result<int> machine_logs(Arguments &a) {
  COFFER_TRY(const Opened o, open(a));
  if (a.follow) catch_interrupts();
  auto read = o.control->logs(o.app, a.words.front(),
                              {.follow = a.follow, .since_ns = 0, .tail = a.lines, .failed = a.failed},
                              [](uint32_t stream, int64_t, ByteSpan data) { return pass_on(stream, data); });
  if (!read && !(read.error().code == ErrorCode::kCancelled && interrupted()))
    return std::unexpected(read.error());
  return 0;
}

Result<int> machine_exec(Arguments &a) {
  if (a.tail.empty())
    return fail(ErrorCode::kInvalidArgument, "no command was given",
                "Put it behind --: `coffer machine exec ID -- CMD`.");
  COFFER_TRY(const Opened o, open(a));
  const auto in = [](std::span<uint8_t> buffer) -> int64_t {
    ssize_t n;
    do n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    while (n < 0 && errno == EINTR);
    return n;
  };
  COFFER_TRY(const int32_t code, o.control->exec(o.app, a.words.front(), a.tail, pass_on, in, STDIN_FILENO));
  return code;
}

Result<int> machine_wait(Arguments &a) {
  std::optional<State> wanted;
  for (const State s : {State::kStarted, State::kStopped, State::kFailed, State::kDestroyed})
    if (to_string(s) == a.state) wanted = s;
  if (!wanted) return fail(ErrorCode::kInvalidArgument, "--state is started, stopped, failed or destroyed");
  constexpr uint64_t kLongest = 10ull * 365 * 86400;
  if (a.timeout_s > kLongest) return fail(ErrorCode::kInvalidArgument, "--timeout is at most ten years");
  COFFER_TRY(const Opened o, open(a));
  catch_interrupts();
  COFFER_TRY(const MachineSummary m,
             o.control->wait(o.app, a.words.front(), *wanted, a.timeout_s, interrupt_fd()));
  if (*wanted != State::kDestroyed) told(a, o, m, "is " + a.state);
  return 0;
}

}  // namespace coffer::cli
