// coffer audit log | verify
#include <algorithm>
#include <map>

#include "../output.h"
#include "coffer/base/text.h"
#include "commands.h"

namespace coffer::cli {
namespace {

constexpr size_t kMostRemote = 10'000;

struct Logged {
  std::string service;
  std::string at;  // its time, or the latest one before it in its log: a clock may go back, numbers do not
  StoredAudit stored;
};

std::string who_of(const AuditEntry &e) {
  return e.who == "host" && !e.host.empty() ? "host " + e.host.substr(0, 8) : e.who;
}

// "set web A, B and 3 more (v7)"
std::string what_of(const AuditEntry &e) {
  constexpr size_t kShown = 5;
  std::string out = e.action;
  if (!e.app.empty())
    out += " " + e.app;
  else if (!e.app_id.empty())
    out += " " + e.app_id.substr(0, 8);
  if (!e.machine.empty()) out += " " + e.machine;
  if (!e.host_name.empty()) out += " " + e.host_name;
  for (size_t i = 0; i < e.names.size() && i < kShown; ++i) out += (i ? ", " : " ") + e.names[i];
  if (e.names.size() > kShown) out += " and " + std::to_string(e.names.size() - kShown) + " more";
  if (e.action == "open") out += ": " + std::to_string(e.count) + (e.count == 1 ? " secret" : " secrets");
  if (e.version) out += " (v" + std::to_string(e.version) + ")";
  if (e.other) out += " of " + e.other->log + ": " + std::to_string(e.other->at.number);
  return out;
}

void write_json(JsonWriter &j, const Logged &l) {
  const AuditEntry &e = l.stored.entry;
  j.begin_object().field("service", l.service).field("n", l.stored.number).field("time", l.stored.time);
  const auto text = [&j](std::string_view name, const std::string &value) {
    if (!value.empty()) j.field(name, value);
  };
  const auto number = [&j](std::string_view name, uint64_t value) {
    if (value) j.field(name, value);
  };
  j.field("who", e.who).field("action", e.action);
  text("app", e.app);
  text("app_id", e.app_id);
  text("machine", e.machine);
  text("instance", e.instance);
  text("host", e.host);
  text("host_name", e.host_name);
  if (!e.names.empty()) {
    j.key("names").begin_array();
    for (const std::string &n : e.names) j.value(n);
    j.end_array();
  }
  number("count", e.count);
  number("spec", e.spec);
  number("version", e.version);
  number("release", e.release);
  if (e.other) j.field("log", e.other->log).field("number", e.other->at.number);
  j.field("outcome", e.outcome).end_object();
}

// Of all logs that can be read from here: in server mode the newest lines of the API's.
Result<void> read_lines(Engine &engine, const Arguments &a,
                        const std::function<void(const std::string &service, std::string_view line)> &each) {
  if (engine.remote()) {
    if (!a.service.empty() && a.service != "api")
      return fail(ErrorCode::kInvalidArgument, "only the API's audit log is read through the API",
                  "That of the key service lies in its home: coffer --engine FILE audit log.");
    COFFER_TRY(api::ApiClient * api, engine.api());
    std::string target = "/v1/audit?lines=" + std::to_string(a.lines ? a.lines : kMostRemote);
    if (!a.app.empty()) target += "&app=" + http::escaped(a.app);
    return api->lines(target, [&](std::string_view line) {
      each("api", line);
      return true;
    });
  }
  std::vector<AuditFile> files = engine.audit_files();
  if (!a.service.empty()) {
    std::erase_if(files, [&](const AuditFile &f) { return f.log != a.service; });
    if (files.empty()) return fail(ErrorCode::kInvalidArgument, "--service is api or keys");
  }
  return read_audit(files, [&](const AuditFile &f, std::string_view line, bool) { each(f.log, line); });
}

}  // namespace

Result<int> audit_log(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  std::vector<Logged> all;
  std::map<std::string, std::string> latest;
  size_t unreadable = 0;
  COFFER_CHECK(read_lines(*engine, a, [&](const std::string &service, std::string_view line) {
    auto stored = decode_audit_line(line);
    if (!stored) {
      ++unreadable;
      return;
    }
    std::string &at = latest[service];
    at = std::max(at, stored->time);
    if (a.app.empty() || stored->entry.app == a.app) all.push_back({service, at, *std::move(stored)});
  }));
  std::ranges::stable_sort(all, {}, &Logged::at);
  if (a.lines && all.size() > a.lines)
    all.erase(all.begin(), all.end() - static_cast<std::ptrdiff_t>(a.lines));
  if (unreadable)
    print_warning(std::to_string(unreadable) +
                  " lines are no entries, and not shown: see `coffer audit verify`");
  if (a.json) {
    JsonWriter j;
    j.begin_array();
    for (const Logged &l : all) write_json(j, l);
    j.end_array();
    print_json(j);
    return 0;
  }
  if (all.empty()) {
    print("The audit logs have no such entry.");
    return 0;
  }
  std::vector<std::vector<std::string>> table = {{"TIME", "SERVICE", "WHO", "WHAT", "OUTCOME"}};
  for (const Logged &l : all)
    table.push_back({l.stored.time, l.service, who_of(l.stored.entry), printable(what_of(l.stored.entry)),
                     l.stored.entry.outcome});
  print_table(table);
  return 0;
}

Result<int> audit_verify(Arguments &a) {
  COFFER_TRY(const auto engine, Engine::open(a));
  if (engine->remote())
    return fail(ErrorCode::kFailedPrecondition, "audit logs are verified where they lie",
                "Run it where coffer-api or coffer-keys has its home, with --engine.");
  const std::vector<AuditFile> files = engine->audit_files();
  COFFER_TRY(const AuditReport report, verify_audit(files));
  const auto file_of = [&](const std::string &log) {
    return std::ranges::find(files, log, &AuditFile::log)->file.string();
  };
  if (a.json) {
    JsonWriter j;
    const auto list = [&](std::string_view name, const std::vector<AuditReport::Finding> &all) {
      j.key(name).begin_array();
      for (const auto &f : all)
        j.begin_object()
            .field("service", f.log)
            .field("file", file_of(f.log))
            .field("entry", f.entry)
            .field("problem", f.problem)
            .end_object();
      j.end_array();
    };
    j.begin_object();
    list("findings", report.findings);
    list("notices", report.notices);
    j.key("logs").begin_array();
    for (const auto &l : report.logs)
      j.begin_object()
          .field("service", l.log)
          .field("file", file_of(l.log))
          .field("entries", l.entries)
          .field("covered", l.covered)
          .end_object();
    j.end_array().end_object();
    print_json(j);
  } else {
    for (const auto &f : report.findings)
      print(file_of(f.log) + ": entry " + std::to_string(f.entry) + " " + f.problem);
    for (const auto &f : report.notices)
      print(file_of(f.log) + ": entry " + std::to_string(f.entry) + " " + f.problem + " (no tampering)");
    for (const auto &l : report.logs)
      print(file_of(l.log) + ": " + std::to_string(l.entries) +
            " entries; what is cut off shows until entry " + std::to_string(l.covered));
    if (report.findings.empty()) print("The audit logs are whole.");
  }
  if (report.findings.empty()) return 0;
  return fail(ErrorCode::kDataLoss,
              "the audit logs have " + std::to_string(report.findings.size()) + " problem" +
                  (report.findings.size() == 1 ? "" : "s"),
              "Compare with a copy of the logs kept elsewhere. Nothing was changed.");
}

}  // namespace coffer::cli
