#include "coffer/plugin_host/injector.h"

#include <algorithm>
#include <bit>

#include "bridge.h"
#include "delivery.h"

namespace coffer {
namespace {

using bridge::contained;
using bridge::kNoMemory;
using bridge::Objection;
using bridge::str;
using bridge::view;

constexpr size_t kLargestValue = 1 << 20, kMostDeliveries = 100'000, kLongestName = 4095;

// A variable's name, or an absolute path without empty, "." and ".." segments.
bool is_place(uint32_t via, std::string_view name) {
  if (!bridge::is_name(name, kLongestName)) return false;
  if (via == COFFER_VIA_ENV) return name.find('=') == std::string_view::npos;
  if (name.size() < 2 || name.front() != '/') return false;
  for (size_t at = 1; at <= name.size();) {
    const size_t end = std::min(name.find('/', at), name.size());
    const std::string_view segment = name.substr(at, end - at);
    if (segment.empty() || segment == "." || segment == "..") return false;
    at = end + 1;
  }
  return true;
}

// The delivery without its value.  Sets `wrong` when it cannot be accepted.
Delivery checked_place(const coffer_delivery *d, uint32_t vias, Objection &wrong) {
  Delivery out;
  if (!d || d->struct_size < sizeof *d)
    wrong = "answered a delivery that is too short";
  else if (!std::has_single_bit(d->via) || !(d->via & vias))
    wrong = "answered a way that the runtime does not have";
  else if (!is_place(d->via, view(d->name)))
    wrong = "answered a place that is neither a variable nor an absolute path";
  else if (d->mode > 0777)
    wrong = "answered a file mode over 0777";
  if (wrong) return out;
  out.via = d->via;
  out.secret = d->flags & COFFER_DLV_SECRET;
  out.name = view(d->name);
  out.mode = d->mode;
  out.has_owner = d->flags & COFFER_DLV_OWNER;
  if (out.has_owner) out.uid = d->uid, out.gid = d->gid;
  return out;
}

bool same_place(const Delivery &a, const Delivery &b) {
  return a.via == b.via && a.name == b.name && a.secret == b.secret && a.mode == b.mode &&
         a.has_owner == b.has_owner && a.uid == b.uid && a.gid == b.gid;
}

// The request as the ABI wants it.  Borrows from the arguments.
class RawRequest {
 public:
  explicit RawRequest(const InjectRequest &r) {
    raw_.struct_size = sizeof raw_;
    raw_.vias = r.vias;
    raw_.app = str(r.app);
    raw_.machine = str(r.machine);
    raw_.bindings_json = str(r.bindings_json);
  }
  RawRequest(const RawRequest &) = delete;
  RawRequest &operator=(const RawRequest &) = delete;
  void add(const std::string &name, bool taken, ByteSpan value) {
    secrets_.push_back(
        {sizeof(coffer_secret), taken ? COFFER_SECRET_TAKEN : 0u, str(name), bridge::bytes(value)});
  }
  const coffer_inject_request *raw() {
    pointers_.clear();
    for (const coffer_secret &s : secrets_) pointers_.push_back(&s);
    raw_.secrets = pointers_.data();
    raw_.n_secrets = pointers_.size();
    return &raw_;
  }

 private:
  coffer_inject_request raw_{};
  std::vector<coffer_secret> secrets_;
  std::vector<const coffer_secret *> pointers_;
};

}  // namespace

Result<std::vector<Injector>> Injector::open_all(const std::vector<PluginConfig> &configs) {
  std::vector<Injector> all;
  for (const PluginConfig &config : configs) {
    COFFER_TRY(Injector one, open(config));
    all.push_back(std::move(one));
  }
  return all;
}

Result<Injector> Injector::open(const PluginConfig &config) {
  COFFER_TRY(PluginInstance instance, bridge::open_serving(config, COFFER_INJECTOR_ID));
  COFFER_TRY(coffer_injector table, bridge::table_of<coffer_injector>(instance, COFFER_INJECTOR_ID));
  bridge::fill_slots(table.plan, table.render);
  return Injector(std::move(instance), table);
}

Result<std::vector<Need>> Injector::plan(const InjectRequest &request, const std::vector<std::string> &names,
                                         const std::set<std::string> &taken) const {
  RawRequest raw(request);
  for (const std::string &name : names) raw.add(name, taken.contains(name), {});
  struct Answer {
    uint32_t vias;
    std::set<std::string_view> known;
    std::vector<Need> needs;
    std::set<std::pair<uint32_t, std::string>> places;
    Objection wrong;

    Objection add(std::string_view secret, const coffer_delivery *where) {
      if (!secret.empty() && !known.contains(secret))
        return "asked for a secret that the manifest does not have";
      if (needs.size() >= kMostDeliveries) return "answered too many deliveries";
      Objection bad;
      Delivery place = checked_place(where, vias, bad);
      if (bad) return bad;
      if (where->value.size) return "answered a value in the plan";
      // Else the secret could be sent where the platform shows it.
      if (!secret.empty() && !place.secret) return "called the delivery of a secret not secret";
      if (!places.emplace(place.via, place.name).second) return "bound one place twice";
      needs.push_back({std::string(secret), std::move(place)});
      return {};
    }
  } answer{request.vias, {names.begin(), names.end()}, {}, {}};
  const auto emit = [](void *ctx, coffer_str secret, const coffer_delivery *where) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    if (!a.wrong && !contained([&] { a.wrong = a.add(view(secret), where); })) a.wrong = kNoMemory;
    return bool(a.wrong);
  };
  const Result<void> called = instance_.call("plan", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.plan(i, c, raw.raw(), emit, &answer);
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "plan", answer.wrong);
  COFFER_CHECK(called);
  return std::move(answer.needs);
}

Result<std::vector<Delivery>> Injector::render(const InjectRequest &request,
                                               const std::vector<const OpenedSecret *> &secrets,
                                               const std::set<std::string> &taken,
                                               const std::vector<Need> &planned) const {
  RawRequest raw(request);
  for (const OpenedSecret *s : secrets) raw.add(s->name, taken.contains(s->name), s->value.reveal());
  struct Answer {
    uint32_t vias;
    const std::vector<Need> &planned;
    std::map<std::pair<uint32_t, std::string_view>, size_t> places;  // -> index into planned
    std::vector<bool> done;
    std::vector<Delivery> deliveries;
    Objection wrong;

    Objection add(const coffer_delivery *d) {
      Objection bad;
      Delivery out = checked_place(d, vias, bad);
      if (bad) return bad;
      const auto need =
          std::ranges::find_if(planned, [&](const Need &n) { return same_place(n.where, out); });
      if (need == planned.end()) return "answered a delivery that it had not planned";
      const auto index = static_cast<size_t>(need - planned.begin());
      if (done[index]) return "answered a delivery twice";
      const ByteSpan value = view(d->value);
      if (value.size() != d->value.size || value.size() > kLargestValue)
        return "answered a value of more than 1 MiB";
      done[index] = true;
      out.value = SecretBytes::copy_of(value);
      deliveries.push_back(std::move(out));
      return {};
    }
  } answer{request.vias, planned, {}, std::vector<bool>(planned.size()), {}};
  for (size_t i = 0; i < planned.size(); ++i)
    answer.places[{planned[i].where.via, planned[i].where.name}] = i;
  const auto emit = [](void *ctx, const coffer_delivery *d) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    if (!a.wrong && !contained([&] { a.wrong = a.add(d); })) a.wrong = kNoMemory;
    return bool(a.wrong);
  };
  const Result<void> called = instance_.call("render", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.render(i, c, raw.raw(), emit, &answer);
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "render", answer.wrong);
  COFFER_CHECK(called);
  if (std::ranges::find(answer.done, false) != answer.done.end())
    return bridge::wrong_answer(instance_, "render", "left out a delivery that it had planned");
  return std::move(answer.deliveries);
}

}  // namespace coffer
