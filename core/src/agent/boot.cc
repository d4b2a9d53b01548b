// One boot, in the order of agent.h.
#include <algorithm>
#include <future>
#include <map>

#include "coffer/agent/agent.h"
#include "coffer/base/clock.h"
#include "coffer/base/json.h"
#include "coffer/base/names.h"
#include "coffer/crypto/hpke_receiver.h"
#include "coffer/format/magic.h"
#include "held.h"

namespace coffer {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr uint64_t kCreateTimeoutNs = 60 * kSecondNs, kStartTimeoutNs = 60 * kSecondNs;
constexpr int kMaxTries = 20;  // of an open that others overtook
constexpr size_t kMaxEnvTotal =
    2 * 1024 * 1024 - 64 * 1024;  // a quarter of the usual stack limit, less arguments
constexpr std::string_view kFileAdvice =
    "Mount it as a file instead: `--file /run/secrets/NAME=SECRET`, or [[files]] in the App config.";

// What inject-file and inject-env are told (their READMEs); other injectors get an empty object.
std::string bindings_for(std::string_view injector, const MachineConfig &config,
                         const std::set<std::string> *only) {
  JsonWriter j;
  j.begin_object();
  if (injector == "inject-file") {
    j.key("files").begin_array();
    for (const FileBinding &f : config.files) {
      j.begin_object().field("guest_path", f.guest_path).field("mode", f.mode).field("env", f.env);
      if (f.secret.empty())
        j.field("value_base64", base64(as_bytes(f.literal)));
      else
        j.field("secret", f.secret).field("encoding", f.encoding == FileEncoding::kBase64 ? "base64" : "raw");
      if (f.has_owner) j.field("uid", f.uid).field("gid", f.gid);
      j.end_object();
    }
    j.end_array();
  } else if (injector == "inject-env") {
    std::optional<std::set<std::string>> wanted;
    if (only) wanted = *only;
    if (config.secrets) {
      // Each under its variables and no other: one that keeps its name is renamed to it.
      std::set<std::string> chosen;
      j.key("rename").begin_object();
      for (const SecretVariable &v : *config.secrets) {
        if (only && !only->contains(v.secret)) continue;
        chosen.insert(v.secret);
        j.field(v.variable, v.secret);
      }
      j.end_object();
      wanted = std::move(chosen);
    } else {
      j.key("also").begin_array();
      for (const FileBinding &f : config.files)
        if (f.env && !f.secret.empty()) j.value(f.secret);
      j.end_array();
    }
    if (wanted) {
      j.key("only").begin_array();
      for (const std::string &name : *wanted) j.value(name);
      j.end_array();
    }
  }
  j.end_object();
  return j.str();
}

// One entry or one file; two of a kind at one place cannot both be there.
std::string place(const Delivery &d) { return (d.via == COFFER_VIA_ENV ? "variable " : "file ") + d.name; }

}  // namespace

std::vector<Delivery> Agent::Plan::places() const {
  std::vector<Delivery> out;
  for (const Piece &p : pieces)
    for (const Need &n : p.needs) {
      Delivery d;
      d.via = n.where.via;
      d.secret = n.where.secret;
      d.name = n.where.name;
      d.mode = n.where.mode;
      d.in_folder = n.where.in_folder;
      d.has_owner = n.where.has_owner;
      d.uid = n.where.uid;
      d.gid = n.where.gid;
      out.push_back(std::move(d));
    }
  return out;
}

Result<Agent::Plan> Agent::plan(const BootOrder &order, const LaunchSpec &spec,
                                const std::set<std::string> *only, uint32_t vias) const {
  COFFER_TRY(const std::vector<Injector> *all, injectors());
  std::map<std::string_view, const Entry *> secrets;
  std::vector<std::string> names;
  for (const Entry &e : order.secrets) {
    secrets.emplace(e.name, &e);
    names.push_back(e.name);
  }
  Plan out;
  for (const Mount &m : spec.config.mounts)
    if (config_.mounts && m.source.starts_with('/') &&
        std::ranges::find(*config_.mounts, m.source) == config_.mounts->end())
      return fail(ErrorCode::kPermissionDenied,
                  "the host does not let Machines mount the source of the mount at " + m.target,
                  "Name that folder in `mounts` under [agent] of the host's engine.toml, or use a volume.");
  std::set<std::string> taken, needed;
  std::map<std::string, std::string> places;
  for (const Injector &injector : *all) {
    Plan::Piece piece{&injector, {}, taken, {}};
    piece.request.vias = vias;
    piece.request.app = order.app;
    piece.request.machine = spec.machine;
    piece.request.bindings_json = bindings_for(injector.name(), spec.config, only);
    COFFER_TRY(piece.needs, injector.plan(piece.request, names, taken));
    for (Need &n : piece.needs) {
      n.where.in_folder = replaced_in_place(spec.config, n.where);
      const std::string where = place(n.where);
      if (!places.emplace(where, n.secret).second)
        return fail(ErrorCode::kInvalidArgument, where + " would be given twice",
                    "Remove one of the two from the Machine's config.");
      if (n.secret.empty()) continue;
      needed.insert(n.secret);
      const auto at = secrets.find(n.secret);
      if (at == secrets.end())
        return fail(ErrorCode::kNotFound,
                    "secret " + n.secret + " is needed for " + where + ", but it is not set",
                    "Set it with `coffer secrets set " + n.secret + "=-`.");
      const Entry &e = *at->second;
      if (n.where.via == COFFER_VIA_ENV && !(e.flags & kEnvOk))
        return fail(ErrorCode::kInvalidArgument,
                    "secret " + e.name +
                        " cannot be an environment variable: it holds a NUL byte, or NAME=VALUE is over "
                        "131,071 bytes",
                    std::string(kFileAdvice));
    }
    for (const Need &n : piece.needs)
      if (!n.secret.empty()) taken.insert(n.secret);
    out.pieces.push_back(std::move(piece));
  }
  for (const FileBinding &f : spec.config.files) {
    const auto at = secrets.find(f.secret);
    if (f.encoding == FileEncoding::kBase64 && at != secrets.end() && !(at->second->flags & kBase64Ok))
      return fail(ErrorCode::kInvalidArgument,
                  "secret " + f.secret + " is not base64, but file " + f.guest_path + " needs it to be",
                  "Set it again as base64, or use `--file`, which takes exact bytes.");
  }
  for (const auto &[key, value] : spec.config.env)
    if (places.contains("variable " + key))
      out.warnings.push_back("variable " + key + " is set both plainly and as a secret: the secret wins");
  out.names.assign(needed.begin(), needed.end());
  return out;
}

Result<std::vector<OpenedSecret>> Agent::open(const BootOrder &order, const SignedSpec &spec,
                                              const std::string &instance_id,
                                              const std::vector<std::string> &names) {
  const auto once = [&]() -> Result<std::vector<OpenedSecret>> {
    TokenRequest token;
    token.app_id = spec.spec.app_id;
    token.machine = spec.spec.machine;
    token.instance_id = instance_id;
    token.spec = spec.hash;
    token.nonce = random_array<16>();
    OpenRequest request;
    COFFER_TRY(request.token, config_.keys->token(sign(config_.host_key, kTokenRequestLabel, encode(token))));
    request.spec = spec.envelope;
    COFFER_TRY(BootOrder::Sealed sealed, order.fetch(names));
    request.headers = std::move(sealed.headers);
    request.proof_header = std::move(sealed.proof_header);
    request.proof_body = std::move(sealed.proof_body);
    request.proof_parts = std::move(sealed.proof_parts);
    request.records = std::move(sealed.records);
    const KeyPair ephemeral = x25519_generate();
    request.ephemeral = ephemeral.public_key;
    const Bytes signed_request = sign(config_.host_key, kOpenRequestLabel, encode(request));
    COFFER_TRY(const Bytes signed_answer, config_.keys->open(signed_request));

    COFFER_TRY(const ByteSpan payload, open_signed(signed_answer, kOpenAnswerLabel, {&config_.identity, 1}));
    COFFER_TRY(const OpenAnswer answer, decode_open_answer(payload));
    const Hash request_hash = sha256(signed_request);
    if (answer.request != request_hash)
      return fail(ErrorCode::kDataLoss, "the key service answered another request");
    COFFER_TRY(HpkeReceiver receiver,
               HpkeReceiver::setup(ephemeral.private_key.reveal(), answer.enc, answer_info(request_hash)));
    COFFER_TRY(const SecretBytes plaintext, receiver.open(0, request_hash, answer.ciphertext));
    COFFER_TRY(std::vector<OpenedSecret> opened, decode_opened(plaintext));
    if (!std::ranges::equal(opened, names, {}, &OpenedSecret::name))
      return fail(ErrorCode::kDataLoss, "the key service answered other secrets than were asked for");
    return opened;
  };
  // Other processes go on writing, so what was fetched may be outdated when the key service looks at it.
  for (int tries = 1;; ++tries) {
    auto opened = once();
    if (opened || tries == kMaxTries) return opened;
    if (opened.error().code != ErrorCode::kAborted && opened.error().code != ErrorCode::kDataLoss)
      return opened;
  }
}

Result<std::vector<Delivery>> Agent::render(const Plan &plan, const std::vector<OpenedSecret> &opened) const {
  std::vector<Delivery> out;
  size_t env_total = 0;
  for (const Plan::Piece &piece : plan.pieces) {
    std::vector<const OpenedSecret *> its;
    for (const OpenedSecret &s : opened)
      if (std::ranges::any_of(piece.needs, [&](const Need &n) { return n.secret == s.name; }))
        its.push_back(&s);
    COFFER_TRY(std::vector<Delivery> rendered,
               piece.injector->render(piece.request, its, piece.taken, piece.needs));
    for (Delivery &d : rendered) {
      if (d.via == COFFER_VIA_ENV) {
        // Flags in a manifest are set by whoever sealed; this is the check that counts.
        if (!fits_env(d.name, d.value.reveal()))
          return fail(ErrorCode::kInvalidArgument,
                      "variable " + d.name + " cannot hold its secret: a NUL byte, or over 131,071 bytes",
                      std::string(kFileAdvice));
        env_total += d.name.size() + 1 + d.value.size() + 1 + sizeof(char *);
      }
      out.push_back(std::move(d));
    }
  }
  if (env_total > kMaxEnvTotal)
    return fail(ErrorCode::kInvalidArgument,
                "the environment would have " + std::to_string(env_total) +
                    " bytes, over the system's limit of about 2 MiB",
                std::string(kFileAdvice));
  return out;
}

void Agent::note_started(MachineState &m) const {
  m.last_good = m.current->spec;
  m.state = State::kStarted;
  m.message.clear();
  m.end.reset();
  m.receipt = sign(config_.host_key, kReceiptLabel,
                   begin("cfz1")
                       .raw(m.app_id)
                       .text(m.machine)
                       .text(m.current->instance_id)
                       .raw(m.current->spec)
                       .u64(m.current->version)
                       .u64(m.current->started_ms)
                       .take());
}

Result<void> Agent::boot_once(Held &held, const BootOrder &order, const SignedSpec &spec,
                              const Probation &probation, Boot &boot) {
  MachineState &m = held.state;
  const MachineConfig &config = spec.spec.config;
  COFFER_TRY(const Runtime *rt, runtime());
  step(m.machine, "preparing");
  COFFER_TRY(const Plan what, plan(order, spec.spec, nullptr, rt->vias()));
  boot.warnings.insert(boot.warnings.end(), what.warnings.begin(), what.warnings.end());
  const std::vector<Delivery> places = what.places();
  for (const Delivery &d : places) {
    if (!(rt->vias() & d.via))
      return fail(ErrorCode::kFailedPrecondition, "the runtime cannot deliver " + place(d));
    if (d.secret && (rt->vias_exposed() & d.via))
      return fail(ErrorCode::kFailedPrecondition, "the runtime would show " + place(d) + " to others");
  }

  InstanceRecord instance;
  instance.instance_id = hex(random_array<13>());
  instance.spec = spec.hash;
  instance.spec_number = spec.spec.number;
  instance.version = spec.spec.version;
  instance.release = spec.spec.release;
  what.note_made_of(instance, order, config);
  m.pending = instance;
  COFFER_CHECK(save(held));  // before it exists: who finds this lease dead knows what to look for

  InstanceSpec create;
  create.name = config.name;
  create.instance_id = instance.instance_id;
  create.image = config.image;
  create.user = config.user;
  create.workdir = config.workdir;
  create.entrypoint = config.entrypoint;
  create.argv = config.argv;
  create.env = config.env;
  create.env.emplace_back("COFFER_APP_NAME", m.app);
  create.env.emplace_back("COFFER_MACHINE_ID", m.machine);
  create.ports = config.ports;
  create.mounts = config.mounts;
  create.cap_drop = config.cap_drop;
  create.network = config.network;
  create.read_only = config.read_only;
  create.memory_bytes = config.memory_bytes;
  create.stop_signal = config.stop_signal;
  create.stop_timeout_ns = config.stop_timeout_ms * 1'000'000;
  create.labels = {{"coffer.app", hex(m.app_id)},
                   {"coffer.machine", m.machine},
                   label(),
                   {"coffer.instance", instance.instance_id}};
  COFFER_TRY(const InstanceStatus created, rt->create(create, places, call_options(kCreateTimeoutNs)));
  m.pending->handle = created.handle;

  step(m.machine, "opening secrets");
  COFFER_TRY(const std::vector<OpenedSecret> opened, open(order, spec, instance.instance_id, what.names));
  COFFER_TRY(const std::vector<Delivery> deliveries, render(what, opened));
  if (cancelled()) return fail(ErrorCode::kCancelled, "interrupted");

  // Set when the old instance is being removed: it was stopped and is never started again, so that this is
  // done while the new one starts.
  std::future<Result<void>> removal;
  if (m.current) {
    COFFER_TRY(const InstanceStatus old, rt->inspect(m.current->handle));
    if (old.state == COFFER_M_STARTED || old.state == COFFER_M_STARTING || old.state == COFFER_M_STOPPING) {
      step(m.machine, "stopping the old instance");
      boot.old_stopped = true;
      COFFER_CHECK(rt->stop(m.current->handle, "", 0));
      if (rt->concurrent() && !boot.keep_old)
        removal = std::async(std::launch::async,
                             [rt, handle = m.current->handle] { return rt->destroy(handle, true); });
    }
  }
  step(m.machine, "starting");
  boot.start_tried = true;
  // Not cancellable: the Machine would be left with no instance at all.
  if (auto start = rt->start(created.handle, deliveries, {kStartTimeoutNs, -1}); !start) {
    Error why = std::move(start).error();
    // The app did not start: that is a failure, not a state in somebody's way.
    if (why.code == ErrorCode::kFailedPrecondition) why.code = ErrorCode::kUnknown;
    take_log(created.handle, order, &opened, boot);
    return std::unexpected(std::move(why));
  }
  COFFER_TRY(const InstanceStatus started, rt->inspect(created.handle));

  if (m.failed) m.leftovers.push_back(std::exchange(m.failed, std::nullopt)->handle);
  if (m.current && boot.keep_old)
    m.failed = *m.current;
  else if (m.current && !(removal.valid() && removal.get()))
    m.leftovers.push_back(m.current->handle);
  m.current = *m.pending;
  m.current->handle = started.handle;
  // By the platform's clock: an instance that shows another time was started again by somebody else.
  m.current->started_ms =
      started.started_ns > 0 ? static_cast<uint64_t>(started.started_ns) / 1'000'000 : now_ms();
  m.pending.reset();
  m.name = config.name;
  note_started(m);
  COFFER_CHECK(save(held));
  step(m.machine, "started");
  boot.started = true;
  const auto proved = prove(m, config, probation, order.still_wanted);
  if (!proved && proved.error().code != ErrorCode::kCancelled)
    take_log(m.current->handle, order, &opened, boot);
  return proved;
}

Result<BootOutcome> Agent::boot(const BootOrder &next, const BootOrder *way_back,
                                const Probation &probation) {
  COFFER_TRY(const SignedSpec spec, open_spec(next.spec, config_.writers));
  return with_lease<BootOutcome>(
      spec.spec.machine, &spec, [&](Held &held) { return boot_held(held, spec, next, way_back, probation); });
}

Result<BootOutcome> Agent::boot_again(const BootOrder &previous, std::optional<Hash> instead_of) {
  COFFER_TRY(const SignedSpec spec, open_spec(previous.spec, config_.writers));
  return with_lease<BootOutcome>(spec.spec.machine, &spec, [&](Held &held) -> Result<BootOutcome> {
    COFFER_CHECK(recover(held));
    MachineState &m = held.state;
    if (instead_of && m.current && m.current->spec != *instead_of && m.current->spec != spec.hash)
      return fail(ErrorCode::kAborted, "Machine " + m.machine + " runs another launch spec by now");
    if (m.current && m.current->spec == spec.hash && m.state == State::kStarted && !m.current->mixed()) {
      COFFER_TRY(const Runtime *rt, runtime());
      COFFER_TRY(const InstanceStatus now, rt->inspect(m.current->handle));
      if (now.state == COFFER_M_STARTED) return BootOutcome{.state = m};
    }
    // Its number is lower than that of what runs, by intent.
    if (m.current) m.current->spec_number = 0;
    going_back_ = true;
    auto out = boot_held(held, spec, previous, nullptr, {.may_stay = true});
    going_back_ = false;
    // Whoever tries again, tries this one.
    if (out && out->failed && m.current && (m.state == State::kFailed || m.current->mixed()))
      becomes(*m.current, spec);
    return out;
  });
}

Result<BootOutcome> Agent::boot_ended(const BootOrder &same, const std::string &instance_id) {
  COFFER_TRY(const SignedSpec spec, open_spec(same.spec, config_.writers));
  return with_lease<BootOutcome>(
      spec.spec.machine, nullptr,
      [&](Held &held) -> Result<BootOutcome> {
        COFFER_CHECK(recover(held));
        COFFER_CHECK(check_ended(held.state, instance_id));
        return boot_held(held, spec, same, nullptr, {});
      },
      Patience::kNone);
}

Result<BootOutcome> Agent::boot_held(Held &held, const SignedSpec &spec, const BootOrder &next,
                                     const BootOrder *way_back, const Probation &probation) {
  MachineState &m = held.state;
  m.app = next.app;
  COFFER_CHECK(recover(held));
  if (next.still_wanted) COFFER_CHECK(next.still_wanted());
  BootOutcome out;
  if (m.current && m.current->spec_number > spec.spec.number)
    return fail(ErrorCode::kAborted, "Machine " + m.machine + " runs launch spec " +
                                         std::to_string(m.current->spec_number) + " already, which is newer");
  Boot boot;
  boot.old_stopped = m.state == State::kStarting;  // by a boot that was cut off
  const auto mixed = [&] { return m.current && m.current->mixed(); };
  // What cannot be removed now is removed later: the way back comes first.
  const auto forget_pending = [&](bool keep) {
    if (!m.pending) return;
    if (m.pending->handle.empty()) {
      // Its creation failed, or only the answer was lost.
      const auto rt = runtime();
      const auto found = rt ? (*rt)->list({{"coffer.instance", m.pending->instance_id}})
                            : Result<std::vector<InstanceStatus>>(std::unexpected(rt.error()));
      if (!found) return boot.warnings.push_back(found.error().message);
      for (const InstanceStatus &s : *found) m.leftovers.push_back(s.handle);
    } else if (const auto rt = runtime(); keep && rt && (*rt)->stop(m.pending->handle, "", 0)) {
      // It may have started all the same.
      if (m.failed) m.leftovers.push_back(m.failed->handle);
      m.failed = m.pending;
    } else {
      m.leftovers.push_back(m.pending->handle);
    }
    m.pending.reset();
    (void)clear_leftovers(held);
  };
  // It may not have been stopped yet, or not let itself be stopped; or its app had ended long before.
  const auto old_runs = [&] {
    if (!m.current) return false;
    const auto rt = runtime();
    const auto old = rt ? (*rt)->inspect(m.current->handle) : std::unexpected(rt.error());
    if (!old) return !boot.old_stopped && m.state == State::kStarted;
    return old->state == COFFER_M_STARTED || old->state == COFFER_M_STARTING;
  };
  // It started, and is no good.
  const auto stop_it = [&] {
    if (!boot.started) return;
    const auto rt = runtime();
    const auto stopped = rt ? (*rt)->stop(m.current->handle, "", 0) : std::unexpected(rt.error());
    if (!stopped) boot.warnings.push_back(stopped.error().message);
  };
  // One that runs with files of two launch specs is still to be booted anew by whoever comes next.
  const auto failed = [&] { return mixed() ? State::kStarting : State::kFailed; };
  const auto booted = [&]() -> Result<void> {
    const bool again = m.current && m.current->spec == spec.hash && m.state == State::kStarted && !mixed();
    if (!again || !old_runs()) {
      if (probation.may_stay) {
        COFFER_TRY(const bool stayed, stay(held, next, spec, probation, boot));
        if (stayed) return {};
      }
      return boot_once(held, next, spec, probation, boot);
    }
    // By a roll-out that was cut off; its values are not known here any more.
    boot.started = true;
    const auto proved = prove(m, spec.spec.config, probation, next.still_wanted);
    if (!proved) take_log(m.current->handle, next, nullptr, boot);
    return proved;
  }();
  if (!booted) {
    out.failed = booted.error();
    forget_pending(boot.start_tried);
    if (!boot.started && !mixed() && old_runs()) {
      out.went_back = true;
      m.state = State::kStarted;
    } else if ((boot.old_stopped || boot.started || mixed()) && way_back) {
      step(m.machine, "going back to the previous launch spec");
      COFFER_TRY(const SignedSpec previous, open_spec(way_back->spec, config_.writers));
      // Its number is lower than that of what runs, by intent.
      if (boot.started) m.current->spec_number = 0;
      Boot again;
      again.keep_old = boot.started;
      going_back_ = true;
      const auto back = boot_once(held, *way_back, previous, {}, again);
      going_back_ = false;
      out.went_back = back.has_value();
      if (!back) {
        forget_pending(false);
        stop_it();
        if (m.current) becomes(*m.current, previous);
        m.state = failed();
        out.failed->message += "; and the previous launch spec did not start either: " + back.error().message;
      }
    } else {
      stop_it();
      m.state = failed();
    }
    m.message = out.failed->message;
  }
  if (auto cleared = clear_leftovers(held); !cleared) boot.warnings.push_back(cleared.error().message);
  out.state = m;
  out.done = boot.done;
  out.warnings = std::move(boot.warnings);
  out.log = std::move(boot.log);
  out.log_withheld = boot.log_withheld;
  return out;
}

Result<void> Agent::hand_over(const BootOrder &order, const std::set<std::string> &only,
                              const Ticket &ticket) {
  if (!config_.receiver)
    return fail(ErrorCode::kFailedPrecondition, "this host hands no values to commands",
                "Name a `socket` under [agent] of its engine config.");
  COFFER_TRY(const TakeValues take, config_.receiver(ticket));
  COFFER_TRY(const SignedSpec spec, open_spec(order.spec, config_.writers));
  if (spec.spec.config.kind != MachineKind::kLocal)
    return fail(ErrorCode::kPermissionDenied, "the values of a Machine are handed to nobody");
  COFFER_TRY(const Plan what, plan(order, spec.spec, only.empty() ? nullptr : &only, COFFER_VIA_ENV));
  COFFER_TRY(const std::vector<OpenedSecret> opened, open(order, spec, hex(random_array<13>()), what.names));
  COFFER_TRY(std::vector<Delivery> environment, render(what, opened));
  return take(environment);
}

}  // namespace coffer
