#include "json.h"

#include <algorithm>
#include <array>

#include "coffer/base/clock.h"
#include "coffer/base/names.h"
#include "coffer/config/machine_options.h"

namespace coffer::api {
namespace {

constexpr std::array<std::string_view, 17> kWords = {
    "",          "cancelled",      "unknown",           "invalid_argument",   "deadline_exceeded",
    "not_found", "already_exists", "permission_denied", "resource_exhausted", "failed_precondition",
    "aborted",   "out_of_range",   "unimplemented",     "internal",           "unavailable",
    "data_loss", "unauthenticated"};

Result<std::string> text(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const JsonValue v, of.at(key));
  COFFER_TRY(const std::string_view t, v.text());
  return std::string(t);
}
Result<std::string> text_or(const JsonValue &of, std::string_view key, std::string other = {}) {
  COFFER_TRY(const auto v, of.find(key));
  if (!v || v->is_null()) return other;
  COFFER_TRY(const std::string_view t, v->text());
  return std::string(t);
}
Result<uint64_t> number(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const JsonValue v, of.at(key));
  COFFER_TRY(const int64_t n, v.integer(0));
  return static_cast<uint64_t>(n);
}
Result<int64_t> number_or(const JsonValue &of, std::string_view key, int64_t other, int64_t least = 0,
                          int64_t most = INT64_MAX) {
  COFFER_TRY(const auto v, of.find(key));
  if (!v || v->is_null()) return other;
  return v->integer(least, most);
}
Result<bool> flag_or(const JsonValue &of, std::string_view key, bool other) {
  COFFER_TRY(const auto v, of.find(key));
  if (!v || v->is_null()) return other;
  return v->boolean();
}
Result<std::vector<JsonValue>> items_or_none(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const auto v, of.find(key));
  if (!v || v->is_null()) return std::vector<JsonValue>{};
  return v->items();
}
Result<Bytes> unbase64_of(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const std::string t, text(of, key));
  auto out = unbase64(t);
  if (!out) return fail(ErrorCode::kInvalidArgument, "field " + std::string(key) + ": expected base64");
  return *std::move(out);
}
template <size_t N>
Result<std::array<uint8_t, N>> unhex_of(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const std::string t, text(of, key));
  const auto out = unhex(t);
  if (!out || out->size() != N)
    return fail(ErrorCode::kInvalidArgument,
                "field " + std::string(key) + ": expected " + std::to_string(2 * N) + " hex digits");
  return to_array<N>(*out);
}

std::string_view policy_word(RestartPolicy p) {
  return p == RestartPolicy::kNo ? "no" : p == RestartPolicy::kAlways ? "always" : "on-failure";
}

constexpr std::array<std::string_view, 4> kCheckWords = {"", "tcp", "http", "command"};

}  // namespace

std::string_view word_of(ErrorCode c) { return kWords[static_cast<size_t>(c)]; }
ErrorCode code_of(std::string_view word) {
  const auto at = std::ranges::find(kWords, word);
  return at == kWords.end() || at == kWords.begin() ? ErrorCode::kUnknown
                                                    : static_cast<ErrorCode>(at - kWords.begin());
}

int status_of(ErrorCode c) {
  switch (c) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kOutOfRange:
      return 400;
    case ErrorCode::kUnauthenticated:
      return 401;
    case ErrorCode::kPermissionDenied:
      return 403;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kDeadlineExceeded:
      return 408;
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kAborted:
      return 409;
    case ErrorCode::kFailedPrecondition:
      return 412;
    case ErrorCode::kResourceExhausted:
      return 429;
    case ErrorCode::kUnimplemented:
      return 501;
    // Not 503: that says that nothing was done, and is retried.
    default:
      return 500;
  }
}

void write(JsonWriter &j, const Error &e) {
  j.begin_object().field("error", e.message).field("code", word_of(e.code));
  if (!e.remedy.empty()) j.field("remedy", e.remedy);
  j.end_object();
}
Result<Error> read_error(const JsonValue &v) {
  Error e;
  COFFER_TRY(e.message, text(v, "error"));
  COFFER_TRY(const std::string word, text_or(v, "code"));
  e.code = code_of(word);
  COFFER_TRY(e.remedy, text_or(v, "remedy"));
  return e;
}

Result<std::vector<std::string>> texts(const JsonValue &of, std::string_view key) {
  COFFER_TRY(const auto all, items_or_none(of, key));
  std::vector<std::string> out;
  for (const JsonValue &v : all) {
    COFFER_TRY(const std::string_view t, v.text());
    out.emplace_back(t);
  }
  return out;
}
void write_texts(JsonWriter &j, std::string_view key, const std::vector<std::string> &all) {
  j.key(key).begin_array();
  for (const std::string &t : all) j.value(t);
  j.end_array();
}

// ---- Apps and secrets ----

void write(JsonWriter &j, const AppSummary &a) {
  j.begin_object().field("name", a.name).field("id", hex(a.id)).field("status", a.status);
  j.field("machine_count", a.machines)
      .field("created_at", rfc3339(a.created_ms))
      .field("created_ms", a.created_ms);
  j.end_object();
}
Result<AppSummary> read_app(const JsonValue &v) {
  AppSummary a;
  COFFER_TRY(a.name, text(v, "name"));
  COFFER_TRY(a.id, unhex_of<16>(v, "id"));
  COFFER_TRY(a.status, text(v, "status"));
  COFFER_TRY(a.machines, number(v, "machine_count"));
  COFFER_TRY(a.created_ms, number(v, "created_ms"));
  return a;
}

void write(JsonWriter &j, const SecretView &s) {
  const Entry &e = s.entry;
  j.begin_object().field("name", e.name).field("digest", hex(e.digest)).field("status", to_string(s.status));
  j.field("version", e.version)
      .field("created_at", rfc3339(e.created_ms))
      .field("updated_at", rfc3339(e.updated_ms));
  j.field("created_ms", e.created_ms).field("updated_ms", e.updated_ms).end_object();
}
Result<SecretView> read_secret(const JsonValue &v) {
  SecretView s;
  COFFER_TRY(s.entry.name, text(v, "name"));
  COFFER_TRY(s.entry.digest, unhex_of<8>(v, "digest"));
  COFFER_TRY(s.entry.version, number(v, "version"));
  COFFER_TRY(s.entry.created_ms, number(v, "created_ms"));
  COFFER_TRY(s.entry.updated_ms, number(v, "updated_ms"));
  COFFER_TRY(const std::string status, text(v, "status"));
  s.status = SecretStatus::kUnknown;
  for (const SecretStatus one :
       {SecretStatus::kDeployed, SecretStatus::kStaged, SecretStatus::kPartial, SecretStatus::kRemoved})
    if (to_string(one) == status) s.status = one;
  return s;
}

void write(JsonWriter &j, const SealedSecret &s) {
  j.begin_object().field("name", s.name).field("record", base64(s.record)).field("digest", hex(s.digest));
  j.field("env_ok", bool(s.flags & kEnvOk)).field("base64_ok", bool(s.flags & kBase64Ok)).end_object();
}
Result<SealedSecret> read_sealed(const JsonValue &v) {
  COFFER_CHECK(v.only({"name", "record", "digest", "env_ok", "base64_ok"}));
  SealedSecret s;
  COFFER_TRY(s.name, text(v, "name"));
  if (auto ok = check_secret_name(s.name); !ok) return std::unexpected(std::move(ok).error().in(v.where()));
  COFFER_TRY(s.record, unbase64_of(v, "record"));
  s.hash = sha256(s.record);
  COFFER_TRY(s.digest, unhex_of<8>(v, "digest"));
  COFFER_TRY(const bool env, flag_or(v, "env_ok", false));
  COFFER_TRY(const bool encoded, flag_or(v, "base64_ok", false));
  s.flags = static_cast<uint8_t>((env ? kEnvOk : 0) | (encoded ? kBase64Ok : 0));
  return s;
}

void write(JsonWriter &j, const Changes &c) {
  j.begin_object().field("version", c.version);
  write_texts(j, "changed", c.changed);
  write_texts(j, "unchanged", c.unchanged);
  write_texts(j, "removed", c.removed);
  write_texts(j, "unknown", c.unknown);
  j.end_object();
}
Result<Changes> read_changes(const JsonValue &v) {
  Changes c;
  COFFER_TRY(c.version, number(v, "version"));
  COFFER_TRY(c.changed, texts(v, "changed"));
  COFFER_TRY(c.unchanged, texts(v, "unchanged"));
  COFFER_TRY(c.removed, texts(v, "removed"));
  COFFER_TRY(c.unknown, texts(v, "unknown"));
  return c;
}

// ---- Machines ----

std::optional<State> state_of(std::string_view word) {
  for (const State s : {State::kCreated, State::kStarting, State::kStarted, State::kStopping, State::kStopped,
                        State::kFailed, State::kDestroyed})
    if (to_string(s) == word) return s;
  return std::nullopt;
}

void write(JsonWriter &j, const MachineSummary &m) {
  j.begin_object().field("id", m.id).field("name", m.name).field("state", to_string(m.state));
  j.field("instance_id", m.instance_id).key("config").begin_object().field("image", m.image).end_object();
  j.field("release", m.release).field("secrets_version", m.version);
  j.field("created_at", rfc3339(m.created_ms)).field("updated_at", rfc3339(m.updated_ms));
  j.field("created_ms", m.created_ms).field("updated_ms", m.updated_ms).field("started_ms", m.started_ms);
  if (m.exit_code) j.field("exit_code", *m.exit_code).field("exit_signal", m.exit_signal);
  j.field("message", m.message).field("cut_off", m.cut_off).field("drift", m.drift).end_object();
}
Result<MachineSummary> read_machine(const JsonValue &v) {
  MachineSummary m;
  COFFER_TRY(m.id, text(v, "id"));
  COFFER_TRY(m.name, text(v, "name"));
  COFFER_TRY(const std::string state, text(v, "state"));
  m.state = state_of(state).value_or(State::kCreated);
  COFFER_TRY(m.instance_id, text_or(v, "instance_id"));
  COFFER_TRY(const JsonValue config, v.at("config"));
  COFFER_TRY(m.image, text_or(config, "image"));
  COFFER_TRY(m.release, number(v, "release"));
  COFFER_TRY(m.version, number(v, "secrets_version"));
  COFFER_TRY(m.created_ms, number(v, "created_ms"));
  COFFER_TRY(m.updated_ms, number(v, "updated_ms"));
  COFFER_TRY(m.started_ms, number(v, "started_ms"));
  COFFER_TRY(const auto ended, v.find("exit_code"));
  if (ended) {
    COFFER_TRY(const int64_t code, ended->integer(INT32_MIN, INT32_MAX));
    m.exit_code = static_cast<int32_t>(code);
    COFFER_TRY(const int64_t signal, number_or(v, "exit_signal", 0, 0, 128));
    m.exit_signal = static_cast<int32_t>(signal);
  }
  COFFER_TRY(m.message, text_or(v, "message"));
  COFFER_TRY(m.cut_off, flag_or(v, "cut_off", false));
  COFFER_TRY(m.drift, text_or(v, "drift"));
  return m;
}

void write(JsonWriter &j, const MachineConfig &c) {
  j.begin_object().field("image", c.image);
  j.key("init").begin_object();
  write_texts(j, "entrypoint", c.entrypoint);
  write_texts(j, "cmd", c.argv);
  j.field("user", c.user).field("workdir", c.workdir).end_object();
  j.key("env").begin_object();
  for (const auto &[name, value] : c.env) j.field(name, value);
  j.end_object();
  j.key("files").begin_array();
  for (const FileBinding &f : c.files) {
    j.begin_object().field("guest_path", f.guest_path).field("mode", f.mode).field("env", f.env);
    if (f.secret.empty())
      j.field("raw_value", base64(as_bytes(f.literal)));
    else
      j.field("secret_name", f.secret)
          .field("encoding", f.encoding == FileEncoding::kBase64 ? "base64" : "raw");
    if (f.has_owner) j.field("uid", f.uid).field("gid", f.gid);
    if (!f.reload.empty()) j.field("reload", f.reload);
    j.end_object();
  }
  j.end_array().key("ports").begin_array();
  for (const Port &p : c.ports)
    j.begin_object()
        .field("host_ip", p.host_ip)
        .field("host_port", p.host_port)
        .field("port", p.port)
        .field("protocol", p.udp ? "udp" : "tcp")
        .end_object();
  j.end_array().key("mounts").begin_array();
  for (const Mount &m : c.mounts)
    j.begin_object()
        .field("source", m.source)
        .field("path", m.target)
        .field("read_only", m.read_only)
        .end_object();
  j.end_array();
  write_texts(j, "cap_drop", c.cap_drop);
  j.key("metadata").begin_object().field("process_group", c.process).end_object();
  j.key("restart").begin_object().field("policy", policy_word(c.restart)).end_object();
  j.key("stop_config")
      .begin_object()
      .field("signal", c.stop_signal)
      .field("timeout_ms", c.stop_timeout_ms)
      .end_object();
  if (c.secrets) {
    j.key("secrets").begin_array();
    for (const SecretVariable &v : *c.secrets)
      j.begin_object().field("name", v.secret).field("env_var", v.variable).end_object();
    j.end_array();
  }
  j.key("checks").begin_array();
  for (const Check &check : c.checks) {
    j.begin_object().field("name", check.name).field("type", kCheckWords[static_cast<size_t>(check.kind)]);
    if (check.kind == Check::Kind::kCommand)
      write_texts(j, "command", check.command);
    else
      j.field("port", check.port);
    if (check.kind == Check::Kind::kHttp) j.field("method", check.method).field("path", check.path);
    j.field("grace_ms", check.grace_ms)
        .field("interval_ms", check.interval_ms)
        .field("timeout_ms", check.timeout_ms)
        .end_object();
  }
  j.end_array()
      .field("network", c.network)
      .field("read_only", c.read_only)
      .field("memory_bytes", c.memory_bytes)
      .end_object();
}

namespace {

Result<FileBinding> read_file(const JsonValue &v) {
  COFFER_CHECK(
      v.only({"guest_path", "mode", "env", "raw_value", "secret_name", "encoding", "uid", "gid", "reload"}));
  FileBinding f;
  COFFER_TRY(f.guest_path, text(v, "guest_path"));
  COFFER_TRY(const int64_t mode, number_or(v, "mode", 0400, 0, 0777));
  f.mode = static_cast<uint32_t>(mode);
  COFFER_TRY(f.env, flag_or(v, "env", false));
  COFFER_TRY(f.secret, text_or(v, "secret_name"));
  if (f.secret.empty()) {
    COFFER_TRY(const Bytes literal, unbase64_of(v, "raw_value"));
    f.literal = as_text(literal);
  } else {
    if (auto ok = check_secret_name(f.secret); !ok)
      return std::unexpected(std::move(ok).error().in("field " + v.where() + ".secret_name"));
    COFFER_TRY(const std::string encoding, text_or(v, "encoding", "raw"));
    if (encoding != "raw" && encoding != "base64")
      return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ".encoding: expected raw or base64");
    f.encoding = encoding == "base64" ? FileEncoding::kBase64 : FileEncoding::kRaw;
  }
  COFFER_TRY(const int64_t uid, number_or(v, "uid", -1, 0, UINT32_MAX));
  COFFER_TRY(const int64_t gid, number_or(v, "gid", -1, 0, UINT32_MAX));
  if ((uid < 0) != (gid < 0))
    return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ": uid and gid belong together");
  f.has_owner = uid >= 0;
  if (f.has_owner) {
    f.uid = static_cast<uint32_t>(uid);
    f.gid = static_cast<uint32_t>(gid);
  }
  COFFER_TRY(const std::string reload, text_or(v, "reload", "restart"));
  auto parsed = parse_reload(reload);
  if (!parsed) return std::unexpected(std::move(parsed).error().in("field " + v.where() + ".reload"));
  f.reload = *std::move(parsed);
  if (!f.reload.empty() && f.secret.empty())
    return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ".reload: only of a secret");
  return f;
}

Result<Check> read_check(const JsonValue &v) {
  COFFER_CHECK(
      v.only({"name", "type", "port", "method", "path", "command", "grace_ms", "interval_ms", "timeout_ms"}));
  constexpr int64_t kDay = 86'400'000;
  Check c;
  COFFER_TRY(c.name, text(v, "name"));
  COFFER_TRY(const std::string type, text(v, "type"));
  const auto at = std::find(kCheckWords.begin() + 1, kCheckWords.end(), type);
  if (at == kCheckWords.end())
    return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ".type: expected tcp, http or command");
  c.kind = static_cast<Check::Kind>(at - kCheckWords.begin());
  COFFER_TRY(const int64_t port, number_or(v, "port", 0, 1, 65535));
  c.port = static_cast<uint16_t>(port);
  COFFER_TRY(c.method, text_or(v, "method", "GET"));
  COFFER_TRY(c.path, text_or(v, "path", c.kind == Check::Kind::kHttp ? "/" : ""));
  COFFER_TRY(c.command, texts(v, "command"));
  COFFER_TRY(const int64_t grace, number_or(v, "grace_ms", 0, 0, kDay));
  COFFER_TRY(const int64_t interval, number_or(v, "interval_ms", 1000, 1, kDay));
  COFFER_TRY(const int64_t timeout, number_or(v, "timeout_ms", 2000, 1, kDay));
  c.grace_ms = static_cast<uint64_t>(grace);
  c.interval_ms = static_cast<uint64_t>(interval);
  c.timeout_ms = static_cast<uint64_t>(timeout);
  if (auto ok = check_check(c); !ok) return std::unexpected(std::move(ok).error().in("field " + v.where()));
  return c;
}

Result<void> read_secrets(const JsonValue &v, MachineConfig &c) {
  COFFER_TRY(const auto items, v.items());
  c.secrets.emplace();
  for (const JsonValue &item : items) {
    COFFER_CHECK(item.only({"name", "env_var"}));
    SecretVariable one;
    COFFER_TRY(one.secret, text(item, "name"));
    COFFER_TRY(one.variable, text_or(item, "env_var", one.secret));
    c.secrets->push_back(std::move(one));
  }
  if (auto ok = check_variables(*c.secrets); !ok)
    return std::unexpected(std::move(ok).error().in("field " + v.where()));
  return {};
}

Result<Port> read_port(const JsonValue &v) {
  COFFER_CHECK(v.only({"host_ip", "host_port", "port", "protocol"}));
  Port p;
  COFFER_TRY(p.host_ip, text_or(v, "host_ip"));
  COFFER_TRY(const int64_t host_port, number_or(v, "host_port", 0, 0, 65535));
  COFFER_TRY(const int64_t port, number_or(v, "port", 0, 1, 65535));
  COFFER_TRY(const std::string protocol, text_or(v, "protocol", "tcp"));
  if (port == 0 || (protocol != "tcp" && protocol != "udp"))
    return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ": expected a port, and tcp or udp");
  // By the words that a person would write, so that there is one rule.
  const std::string host = p.host_ip.find(':') != p.host_ip.npos ? "[" + p.host_ip + "]" : p.host_ip;
  auto parsed = parse_port((host.empty() ? "" : host + ":") + std::to_string(host_port) + ":" +
                           std::to_string(port) + "/" + protocol);
  if (!parsed) return std::unexpected(std::move(parsed).error().in("field " + v.where()));
  return parsed;
}

Result<void> read_init(const JsonValue &v, MachineConfig &c) {
  COFFER_CHECK(v.only({"entrypoint", "cmd", "user", "workdir"}));
  COFFER_TRY(c.entrypoint, texts(v, "entrypoint"));
  COFFER_TRY(c.argv, texts(v, "cmd"));
  COFFER_TRY(c.user, text_or(v, "user"));
  COFFER_TRY(c.workdir, text_or(v, "workdir"));
  return {};
}

Result<void> read_env(const JsonValue &v, MachineConfig &c) {
  COFFER_TRY(const auto members, v.members());
  for (const auto &[name, of] : members) {
    COFFER_TRY(const std::string_view value, of.text());
    if (!valid_variable(name) || !fits_env(name, as_bytes(value)))
      return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ", entry " +
                                                   std::to_string(c.env.size() + 1) +
                                                   ": not a variable, or over 131,071 bytes");
    c.env.emplace_back(name, value);
  }
  std::ranges::sort(c.env);
  return {};
}

}  // namespace

Result<MachineConfig> read_config(const JsonValue &v) {
  COFFER_CHECK(v.only({"image", "init", "env", "files", "ports", "mounts", "cap_drop", "metadata", "restart",
                       "stop_config", "network", "read_only", "memory_bytes", "secrets", "checks"}));
  MachineConfig c;
  COFFER_TRY(c.image, text(v, "image"));
  c.image_name = c.image;
  COFFER_TRY(const auto init, v.find("init"));
  if (init) COFFER_CHECK(read_init(*init, c));
  COFFER_TRY(const auto env, v.find("env"));
  if (env) COFFER_CHECK(read_env(*env, c));
  COFFER_TRY(const auto files, items_or_none(v, "files"));
  std::vector<std::string> paths;
  std::vector<std::pair<std::string, std::string>> reloads;
  for (const JsonValue &f : files) {
    COFFER_TRY(FileBinding file, read_file(f));
    paths.push_back(file.guest_path);
    reloads.emplace_back(file.guest_path, file.reload);
    c.files.push_back(std::move(file));
  }
  COFFER_CHECK(check_guest_paths(paths));
  COFFER_CHECK(check_reload(reloads));
  COFFER_TRY(const auto secrets, v.find("secrets"));
  if (secrets && !secrets->is_null()) COFFER_CHECK(read_secrets(*secrets, c));
  COFFER_TRY(const auto checks, items_or_none(v, "checks"));
  for (const JsonValue &check : checks) {
    COFFER_TRY(Check read, read_check(check));
    c.checks.push_back(std::move(read));
  }
  COFFER_TRY(const auto ports, items_or_none(v, "ports"));
  for (const JsonValue &p : ports) {
    COFFER_TRY(Port port, read_port(p));
    c.ports.push_back(std::move(port));
  }
  COFFER_CHECK(check_ports(c.ports));
  COFFER_TRY(const auto mounts, items_or_none(v, "mounts"));
  for (const JsonValue &m : mounts) {
    COFFER_CHECK(m.only({"source", "path", "read_only"}));
    Mount mount;
    COFFER_TRY(mount.source, text(m, "source"));
    COFFER_TRY(mount.target, text(m, "path"));
    COFFER_TRY(mount.read_only, flag_or(m, "read_only", false));
    if (auto ok = check_mount(mount); !ok)
      return std::unexpected(std::move(ok).error().in("field " + m.where()));
    c.mounts.push_back(std::move(mount));
  }
  COFFER_CHECK(check_mounts(c.mounts, paths));
  COFFER_TRY(const std::vector<std::string> caps, texts(v, "cap_drop"));
  for (const std::string &cap : caps) {
    COFFER_TRY(std::string parsed, parse_capability(cap));
    c.cap_drop.push_back(std::move(parsed));
  }
  COFFER_TRY(const auto metadata, v.find("metadata"));
  if (metadata) {
    COFFER_TRY(c.process, text_or(*metadata, "process_group"));
  }
  COFFER_TRY(const auto restart, v.find("restart"));
  if (restart) {
    COFFER_TRY(const std::string policy, text_or(*restart, "policy", "on-failure"));
    COFFER_TRY(c.restart, parse_restart(policy));
  }
  COFFER_TRY(const auto stop, v.find("stop_config"));
  if (stop) {
    COFFER_TRY(c.stop_signal, text_or(*stop, "signal"));
    if (!c.stop_signal.empty()) {
      COFFER_TRY(c.stop_signal, parse_signal(c.stop_signal));
    }
    constexpr int64_t kDay = 86'400'000;
    COFFER_TRY(const int64_t timeout, number_or(*stop, "timeout_ms", 0, 0, kDay));
    c.stop_timeout_ms = static_cast<uint64_t>(timeout);
  }
  COFFER_TRY(c.network, text_or(v, "network"));
  if (!c.network.empty()) COFFER_CHECK(check_network(c.network));
  COFFER_TRY(c.read_only, flag_or(v, "read_only", false));
  COFFER_TRY(const int64_t memory, number_or(v, "memory_bytes", 0));
  if (memory) {
    COFFER_TRY(c.memory_bytes, parse_memory(std::to_string(memory)));
  }
  return c;
}

void write(JsonWriter &j, const Control::Booted &b) {
  j.begin_object().key("machine");
  write(j, b.machine);
  write_texts(j, "warnings", b.warnings);
  j.end_object();
}
Result<Control::Booted> read_booted(const JsonValue &v) {
  Control::Booted b;
  COFFER_TRY(const JsonValue machine, v.at("machine"));
  COFFER_TRY(b.machine, read_machine(machine));
  COFFER_TRY(b.warnings, texts(v, "warnings"));
  return b;
}

// ---- roll-outs ----

void write(JsonWriter &j, const RolloutResult &r) {
  j.begin_object().field("release", r.release).field("version", r.version).field("already", r.already);
  j.field("joined", r.joined).field("unfinished", r.unfinished).key("machines").begin_array();
  for (const MachineResult &m : r.machines)
    j.begin_object().field("id", m.id).field("name", m.name).field("result", m.result).end_object();
  j.end_array();
  write_texts(j, "warnings", r.warnings);
  if (r.failed) {
    j.key("failed");
    write(j, *r.failed);
    // Any bytes: an app has written it.
    j.field("log_base64", base64(as_bytes(r.log))).field("log_withheld", r.log_withheld);
  }
  j.end_object();
}
Result<RolloutResult> read_rollout(const JsonValue &v) {
  RolloutResult r;
  COFFER_TRY(r.release, number(v, "release"));
  COFFER_TRY(r.version, number(v, "version"));
  COFFER_TRY(const int64_t already, number_or(v, "already", 0));
  r.already = static_cast<uint64_t>(already);
  COFFER_TRY(r.joined, flag_or(v, "joined", false));
  COFFER_TRY(r.unfinished, flag_or(v, "unfinished", false));
  COFFER_TRY(const auto machines, items_or_none(v, "machines"));
  for (const JsonValue &m : machines) {
    MachineResult one;
    COFFER_TRY(one.id, text(m, "id"));
    COFFER_TRY(one.name, text(m, "name"));
    COFFER_TRY(one.result, text(m, "result"));
    r.machines.push_back(std::move(one));
  }
  COFFER_TRY(r.warnings, texts(v, "warnings"));
  COFFER_TRY(const auto failed, v.find("failed"));
  if (failed) {
    COFFER_TRY(r.failed, read_error(*failed));
    COFFER_TRY(const std::string log, text_or(v, "log_base64"));
    const auto bytes = unbase64(log);
    if (!bytes) return fail(ErrorCode::kDataLoss, "field log_base64: expected base64");
    r.log = as_text(*bytes);
    COFFER_TRY(r.log_withheld, flag_or(v, "log_withheld", false));
  }
  return r;
}

// ---- what is rolled out ----

namespace {

std::string_view word_of(Strategy s) { return s == Strategy::kImmediate ? "immediate" : "rolling"; }
Result<Strategy> strategy_of(const JsonValue &v) {
  COFFER_TRY(const std::string_view word, v.text());
  for (const Strategy s : {Strategy::kRolling, Strategy::kImmediate})
    if (word == word_of(s)) return s;
  return fail(ErrorCode::kInvalidArgument, "field " + v.where() + ": expected rolling or immediate");
}

void write_wish(JsonWriter &j, const DeployWish &w) {
  j.begin_object();
  if (w.strategy) j.field("strategy", word_of(*w.strategy));
  if (w.max_unavailable) j.field("max_unavailable", *w.max_unavailable);
  if (w.smoke_ms) j.field("smoke_ms", *w.smoke_ms);
  if (w.patience_ms) j.field("wait_ms", *w.patience_ms);
  j.end_object();
}
Result<DeployWish> read_wish(const JsonValue &v) {
  constexpr int64_t kLongestSmoke = 600'000, kLongestWait = 86'400'000, kMostAtOnce = 1'000'000;
  DeployWish w;
  COFFER_CHECK(v.only({"strategy", "max_unavailable", "smoke_ms", "wait_ms"}));
  COFFER_TRY(const auto strategy, v.find("strategy"));
  if (strategy) {
    COFFER_TRY(w.strategy, strategy_of(*strategy));
  }
  COFFER_TRY(const auto most, v.find("max_unavailable"));
  if (most) {
    COFFER_TRY(const int64_t n, most->integer(1, kMostAtOnce));
    w.max_unavailable = static_cast<uint32_t>(n);
  }
  for (const auto &[name, to, longest] : {std::tuple("smoke_ms", &w.smoke_ms, kLongestSmoke),
                                          std::tuple("wait_ms", &w.patience_ms, kLongestWait)}) {
    COFFER_TRY(const auto given, v.find(name));
    if (!given) continue;
    COFFER_TRY(const int64_t n, given->integer(0, longest));
    *to = static_cast<uint64_t>(n);
  }
  return w;
}

}  // namespace

void write(JsonWriter &j, const AnyDeploy &any) {
  j.begin_object();
  if (const auto *r = std::get_if<RolloutOrder>(&any)) {
    j.field("reason", r->reason).field("force", r->force).field("detach", r->hasty);
  } else {
    const DeployOrder &d = std::get<DeployOrder>(any);
    j.field("reason", d.reason).field("pull", d.pull).field("detach", d.hasty).key("policy");
    write_wish(j, d.policy);
    j.key("configs").begin_array();
    for (const MachineConfig &c : d.configs) write(j, c);
    j.end_array();
  }
  j.end_object();
}
Result<AnyDeploy> read_deploy(const JsonValue &v) {
  COFFER_CHECK(v.only({"reason", "force", "detach", "pull", "policy", "configs"}));
  COFFER_TRY(std::string reason, text_or(v, "reason", "deploy"));
  if (reason.size() > 256) return fail(ErrorCode::kInvalidArgument, "field reason: over 256 bytes");
  COFFER_TRY(const bool force, flag_or(v, "force", false));
  COFFER_TRY(const bool hasty, flag_or(v, "detach", false));
  COFFER_TRY(const auto configs, v.find("configs"));
  if (!configs) return RolloutOrder{std::move(reason), force, hasty};
  DeployOrder d;
  d.reason = std::move(reason);
  d.hasty = hasty;
  COFFER_TRY(d.pull, flag_or(v, "pull", false));
  COFFER_TRY(const auto policy, v.find("policy"));
  if (policy) {
    COFFER_TRY(d.policy, read_wish(*policy));
  }
  COFFER_TRY(const auto items, configs->items());
  std::set<std::string> processes;
  for (const JsonValue &item : items) {
    COFFER_TRY(MachineConfig c, read_config(item));
    if (c.process.empty() || !processes.insert(c.process).second)
      return fail(ErrorCode::kInvalidArgument,
                  "field " + item.where() + ": expected a process_group of its own");
    d.configs.push_back(std::move(c));
  }
  if (d.configs.empty()) return fail(ErrorCode::kInvalidArgument, "field configs: there is none");
  return d;
}

// ---- releases ----

namespace {
std::string_view word_of(ReleaseOutcome o) {
  return o == ReleaseOutcome::kDone ? "done" : o == ReleaseOutcome::kFailed ? "failed" : "running";
}
}  // namespace

void write(JsonWriter &j, const Control::Releases &r) {
  j.begin_object();
  if (r.under_way) {
    const Rollout &u = r.under_way->rollout;
    j.key("under_way").begin_object().field("release", u.release).field("version", u.version);
    j.field("alive", r.under_way->alive).field("back", u.stage == Rollout::Stage::kBack);
    j.field("waves", u.waves).field("machines", u.steps.size()).field("why", u.why).end_object();
  }
  j.key("releases").begin_array();
  for (const Release &one : r.all) {
    j.begin_object()
        .field("release", one.number)
        .field("version", one.version)
        .field("outcome", word_of(one.outcome));
    j.field("who", one.who).field("reason", one.reason).field("why", one.why);
    j.field("created_at", rfc3339(one.created_ms)).field("created_ms", one.created_ms);
    j.key("images").begin_array();
    for (const MachineConfig &c : one.configs) j.value(c.image_name);
    j.end_array().end_object();
  }
  j.end_array().end_object();
}
Result<Control::Releases> read_releases(const JsonValue &v) {
  Control::Releases out;
  COFFER_TRY(const auto under_way, v.find("under_way"));
  if (under_way) {
    RolloutView u;
    COFFER_TRY(u.rollout.release, number(*under_way, "release"));
    COFFER_TRY(u.rollout.version, number(*under_way, "version"));
    COFFER_TRY(u.alive, flag_or(*under_way, "alive", false));
    COFFER_TRY(const bool back, flag_or(*under_way, "back", false));
    if (back) u.rollout.stage = Rollout::Stage::kBack;
    COFFER_TRY(const uint64_t waves, number(*under_way, "waves"));
    u.rollout.waves = static_cast<uint32_t>(waves);
    COFFER_TRY(u.rollout.why, text_or(*under_way, "why"));
    out.under_way = std::move(u);
  }
  COFFER_TRY(const auto items, items_or_none(v, "releases"));
  for (const JsonValue &item : items) {
    Release one;
    COFFER_TRY(one.number, number(item, "release"));
    COFFER_TRY(one.version, number(item, "version"));
    COFFER_TRY(const std::string outcome, text(item, "outcome"));
    for (const ReleaseOutcome o : {ReleaseOutcome::kRunning, ReleaseOutcome::kDone, ReleaseOutcome::kFailed})
      if (outcome == word_of(o)) one.outcome = o;
    COFFER_TRY(one.who, text(item, "who"));
    COFFER_TRY(one.reason, text(item, "reason"));
    COFFER_TRY(one.why, text_or(item, "why"));
    COFFER_TRY(one.created_ms, number(item, "created_ms"));
    COFFER_TRY(const std::vector<std::string> images, texts(item, "images"));
    for (const std::string &image : images) one.configs.push_back({.image_name = image});
    out.all.push_back(std::move(one));
  }
  return out;
}

void write(JsonWriter &j, const Deployer::Purged &p) {
  j.begin_object().field("version", p.version).field("records", p.records).end_object();
}
Result<Deployer::Purged> read_purged(const JsonValue &v) {
  Deployer::Purged p;
  COFFER_TRY(p.version, number(v, "version"));
  COFFER_TRY(p.records, number(v, "records"));
  return p;
}

void write(JsonWriter &j, const Rotated &r) {
  j.begin_object().field("from", r.from).field("epoch", r.epoch).field("went_on", r.went_on);
  j.field("version", r.version).field("secrets", r.secrets).field("oldest", r.oldest).key("rollout");
  write(j, r.rollout);
  write_texts(j, "warnings", r.warnings);
  j.end_object();
}
Result<Rotated> read_rotated(const JsonValue &v) {
  Rotated r;
  COFFER_TRY(const uint64_t from, number(v, "from"));
  COFFER_TRY(const uint64_t epoch, number(v, "epoch"));
  COFFER_TRY(const uint64_t oldest, number(v, "oldest"));
  r.from = static_cast<uint32_t>(from);
  r.epoch = static_cast<uint32_t>(epoch);
  r.oldest = static_cast<uint32_t>(oldest);
  COFFER_TRY(r.went_on, flag_or(v, "went_on", false));
  COFFER_TRY(r.version, number(v, "version"));
  COFFER_TRY(r.secrets, number(v, "secrets"));
  COFFER_TRY(const JsonValue rollout, v.at("rollout"));
  COFFER_TRY(r.rollout, read_rollout(rollout));
  COFFER_TRY(r.warnings, texts(v, "warnings"));
  return r;
}

// ---- plan and history ----

void write(JsonWriter &j, const HandOver &h) {
  j.begin_object().field("host", hex(h.to.host)).field("ticket", hex(h.to.ticket));
  write_texts(j, "only", {h.only.begin(), h.only.end()});
  j.end_object();
}

Result<HandOver> read_hand_over(const JsonValue &v) {
  HandOver out;
  COFFER_CHECK(v.only({"host", "ticket", "only"}));
  for (const auto &[name, to] : {std::pair("host", &out.to.host), std::pair("ticket", &out.to.ticket)}) {
    COFFER_TRY(const JsonValue given, v.at(name));
    COFFER_TRY(const std::string_view text, given.text());
    const auto bytes = unhex(text);
    if (!bytes || bytes->size() != to->size())
      return fail(ErrorCode::kInvalidArgument, "field " + std::string(name) + ": expected 64 hex digits");
    *to = to_array<32>(*bytes);
  }
  COFFER_TRY(const std::vector<std::string> only, texts(v, "only"));
  for (size_t i = 0; i < only.size(); ++i)
    if (auto ok = check_secret_name(only[i]); !ok)
      return std::unexpected(std::move(ok).error().in("field only, entry " + std::to_string(i + 1)));
  out.only.insert(only.begin(), only.end());
  return out;
}

void write(JsonWriter &j, const Plan &p) {
  j.begin_object().field("version", p.version).key("secrets").begin_array();
  for (const auto &[name, change] : p.secrets)
    j.begin_object().field("name", name).field("change", to_string(change)).end_object();
  j.end_array().key("machines").begin_array();
  for (const Plan::Machine &m : p.machines)
    j.begin_object()
        .field("id", m.id)
        .field("name", m.name)
        .field("version", m.version)
        .field("effect", to_string(m.effect))
        .end_object();
  j.end_array().end_object();
}
Result<Plan> read_plan(const JsonValue &v) {
  Plan p;
  COFFER_TRY(p.version, number(v, "version"));
  COFFER_TRY(const auto secrets, items_or_none(v, "secrets"));
  for (const JsonValue &s : secrets) {
    COFFER_TRY(std::string name, text(s, "name"));
    COFFER_TRY(const std::string change, text(s, "change"));
    for (const PlannedChange c : {PlannedChange::kAdd, PlannedChange::kChange, PlannedChange::kRemove})
      if (to_string(c) == change) p.secrets.emplace(name, c);
  }
  COFFER_TRY(const auto machines, items_or_none(v, "machines"));
  for (const JsonValue &m : machines) {
    Plan::Machine one;
    COFFER_TRY(one.id, text(m, "id"));
    COFFER_TRY(one.name, text(m, "name"));
    COFFER_TRY(one.version, number(m, "version"));
    COFFER_TRY(const std::string effect, text(m, "effect"));
    for (const PlannedEffect e : {PlannedEffect::kNone, PlannedEffect::kReload, PlannedEffect::kRestart})
      if (to_string(e) == effect) one.effect = e;
    p.machines.push_back(std::move(one));
  }
  return p;
}

void write(JsonWriter &j, const VersionView &v) {
  j.begin_object().field("version", v.version).field("who", v.who);
  j.field("created_at", rfc3339(v.created_ms)).field("created_ms", v.created_ms);
  if (v.restored_from) j.field("restored_from", v.restored_from);
  write_texts(j, "set", v.set);
  write_texts(j, "removed", v.removed);
  j.end_object();
}
Result<VersionView> read_version(const JsonValue &v) {
  VersionView out;
  COFFER_TRY(out.version, number(v, "version"));
  COFFER_TRY(out.created_ms, number(v, "created_ms"));
  COFFER_TRY(out.who, text(v, "who"));
  COFFER_TRY(const int64_t restored, number_or(v, "restored_from", 0));
  out.restored_from = static_cast<uint64_t>(restored);
  COFFER_TRY(out.set, texts(v, "set"));
  COFFER_TRY(out.removed, texts(v, "removed"));
  return out;
}

// ---- tokens ----

namespace {
void write_record(JsonWriter &j, const TokenRecord &r) {
  j.field("id", hex(r.id)).field("name", r.name).field("who", r.who);
  j.field("created_at", rfc3339(r.created_ms)).field("created_ms", r.created_ms);
  write_texts(j, "caveats", r.caveats);
}
Result<TokenRecord> read_record(const JsonValue &v) {
  TokenRecord r;
  COFFER_TRY(r.id, unhex_of<16>(v, "id"));
  COFFER_TRY(r.name, text(v, "name"));
  COFFER_TRY(r.who, text(v, "who"));
  COFFER_TRY(r.created_ms, number(v, "created_ms"));
  COFFER_TRY(r.caveats, texts(v, "caveats"));
  return r;
}
}  // namespace

void write(JsonWriter &j, const Tokens &all) {
  j.begin_object().key("tokens").begin_array();
  for (const TokenRecord &r : all.records) {
    j.begin_object();
    write_record(j, r);
    j.end_object();
  }
  j.end_array().key("damaged").begin_array();
  for (const Error &e : all.damaged) write(j, e);
  j.end_array().end_object();
}
Result<Tokens> read_tokens(const JsonValue &v) {
  Tokens out;
  COFFER_TRY(const auto records, items_or_none(v, "tokens"));
  for (const JsonValue &one : records) {
    COFFER_TRY(TokenRecord r, read_record(one));
    out.records.push_back(std::move(r));
  }
  COFFER_TRY(const auto damaged, items_or_none(v, "damaged"));
  for (const JsonValue &one : damaged) {
    COFFER_TRY(Error e, read_error(one));
    out.damaged.push_back(std::move(e));
  }
  return out;
}

void write(JsonWriter &j, const NewToken &t) {
  j.begin_object();
  write_record(j, t.record);
  j.field("token", t.token.text()).end_object();
}
Result<NewToken> read_new_token(const JsonValue &v) {
  COFFER_TRY(TokenRecord record, read_record(v));
  COFFER_TRY(const std::string token, text(v, "token"));
  COFFER_TRY(Macaroon made, Macaroon::parse_text(token));
  return NewToken{std::move(record), std::move(made)};
}

Result<TokenId> read_token_id(const JsonValue &v) { return unhex_of<16>(v, "id"); }

void write(JsonWriter &j, const Caller &c) {
  j.begin_object().field("id", hex(c.id)).field("name", c.name).key("apps");
  if (const auto &apps = c.rights.apps()) {
    j.begin_array();
    for (const std::string &app : *apps) j.value(app);
    j.end_array();
  } else {
    j.null();
  }
  j.key("allow").begin_array();
  for (const std::string_view word : c.rights.words()) j.value(word);
  j.end_array().key("expires_at");
  if (c.rights.expires_ms())
    j.value(rfc3339(*c.rights.expires_ms()));
  else
    j.null();
  j.end_object();
}
Result<Caller> read_caller(const JsonValue &v) {
  Caller c;
  COFFER_TRY(c.id, unhex_of<16>(v, "id"));
  COFFER_TRY(c.name, text(v, "name"));
  return c;
}

}  // namespace coffer::api
