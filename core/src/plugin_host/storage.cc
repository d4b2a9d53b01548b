#include "coffer/plugin_host/storage.h"

#include <algorithm>

#include "bridge.h"

namespace coffer {
namespace {

using bridge::bytes;
using bridge::contained;
using bridge::kNoMemory;
using bridge::Objection;
using bridge::str;
using bridge::view;

constexpr uint64_t kSmallestValueLimit = 1280 * 1024;  // storage.h: 1.25 MiB

bool is_key_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '~' || c == '-' || c == '/';
}

// storage.h: [A-Za-z0-9._~-] and '/', no empty, "." or ".." segment.
bool is_key(std::string_view key, size_t max) {
  if (key.empty() || key.size() > max || !std::ranges::all_of(key, is_key_character)) return false;
  for (;;) {
    const size_t slash = key.find('/');
    const std::string_view segment = key.substr(0, slash);
    if (segment.empty() || segment == "." || segment == "..") return false;
    if (slash == std::string_view::npos) return true;
    key.remove_prefix(slash + 1);
  }
}

Result<void> check_key(std::string_view what, std::string_view key, size_t max) {
  if (is_key(key, max)) return {};
  return fail(ErrorCode::kInvalidArgument,
              "storage: " + std::string(what) + " '" + printable(key, 128) + "' must be 1 to " +
                  std::to_string(max) + " letters, digits, '.', '_', '~', '-' in segments divided by '/'");
}

// A prefix may end anywhere in a key.
Result<void> check_prefix(std::string_view prefix, size_t max) {
  if (prefix.size() <= max && std::ranges::all_of(prefix, is_key_character)) return {};
  return fail(ErrorCode::kInvalidArgument, "storage: no key begins with '" + printable(prefix, 128) + "'");
}

}  // namespace

Result<Storage> Storage::open(const PluginConfig &config) {
  COFFER_TRY(PluginInstance instance, bridge::open_serving(config, COFFER_STORAGE_ID));
  COFFER_TRY(coffer_storage table, bridge::table_of<coffer_storage>(instance, COFFER_STORAGE_ID));
  bridge::fill_slots(table.limits, table.get, table.list, table.commit, table.spaces, table.drop_space);

  coffer_storage_limits limits{};
  limits.struct_size = sizeof limits;
  COFFER_CHECK(instance.call("tell its limits", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table.limits(i, c, &limits);
  }));
  if (limits.max_ops < 64 || limits.max_value < kSmallestValueLimit ||
      limits.max_batch_bytes < kSmallestValueLimit || limits.max_key < 512 || limits.max_space < 128)
    return fail(ErrorCode::kFailedPrecondition,
                "plugin " + instance.plugin().name() + ": its limits are below what every storage must hold");
  return Storage(std::move(instance), table, limits);
}

Result<std::optional<Stored>> Storage::get(std::string_view space, std::string_view key) const {
  COFFER_CHECK(check_key("space", space, limits_.max_space));
  COFFER_CHECK(check_key("key", key, limits_.max_key));
  struct Answer {
    std::string_view key;
    uint64_t max_value;
    std::optional<Stored> found;
    Objection wrong;
  } answer{key, limits_.max_value, {}};
  const auto emit = [](void *ctx, coffer_str k, uint64_t revision, coffer_bytes value) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    const ByteSpan v = view(value);
    if (a.found)
      a.wrong = "answered twice";
    else if (view(k) != a.key)
      a.wrong = "answered another key";
    else if (revision == 0)
      a.wrong = "answered revision 0";
    else if (v.size() != value.size || v.size() > a.max_value)
      a.wrong = "answered a value beyond its own limit";
    else if (!contained([&] { a.found = Stored{std::string(a.key), revision, Bytes(v.begin(), v.end())}; }))
      a.wrong = kNoMemory;
    return bool(a.wrong);
  };
  bool absent = false;
  const Result<void> called = instance_.call("get", {}, [&](coffer_instance *i, const coffer_call *c) {
    const coffer_status status = table_.get(i, c, str(space), str(key), emit, &answer);
    absent = status == COFFER_NOT_FOUND;
    return absent ? COFFER_OK : status;
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "get", answer.wrong);
  COFFER_CHECK(called);
  if (absent && answer.found)
    return bridge::wrong_answer(instance_, "get", "answered a value it says is absent");
  if (!absent && !answer.found) return bridge::wrong_answer(instance_, "get", "answered OK without a value");
  return std::move(answer.found);
}

Result<void> Storage::list(std::string_view space, std::string_view prefix, bool with_values,
                           const std::function<bool(Stored)> &each) const {
  COFFER_CHECK(check_key("space", space, limits_.max_space));
  COFFER_CHECK(check_prefix(prefix, limits_.max_key));
  struct Answer {
    std::string_view prefix;
    const coffer_storage_limits &limits;
    bool with_values;
    const std::function<bool(Stored)> &each;
    std::string last;
    bool stopped = false;
    Objection wrong;
  } answer{prefix, limits_, with_values, each, {}};
  const auto emit = [](void *ctx, coffer_str k, uint64_t revision, coffer_bytes value) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    if (a.wrong || a.stopped) return 1;
    const std::string_view key = view(k);
    const ByteSpan v = view(value);
    if (!is_key(key, a.limits.max_key))
      a.wrong = "answered a key that is none";
    else if (!key.starts_with(a.prefix))
      a.wrong = "answered a key outside of the prefix";
    else if (key <= a.last)
      a.wrong = "answered keys out of order";
    else if (revision == 0)
      a.wrong = "answered revision 0";
    else if (v.size() != value.size || v.size() > a.limits.max_value)
      a.wrong = "answered a value beyond its own limit";
    else if (!a.with_values && !v.empty())
      a.wrong = "answered values that nobody asked for";
    else if (!contained([&] {
               a.last = key;
               a.stopped = !a.each({a.last, revision, Bytes(v.begin(), v.end())});
             }))
      a.wrong = kNoMemory;
    return a.wrong || a.stopped;
  };
  const Result<void> called = instance_.call("list", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.list(i, c, str(space), str(prefix), {}, 0, with_values, emit, &answer);
  });
  if (answer.wrong) return bridge::wrong_answer(instance_, "list", answer.wrong);
  // Who was told to stop may say so or not.
  if (answer.stopped) return {};
  return called;
}

Result<uint64_t> Storage::commit(std::string_view space, const Batch &batch) const {
  COFFER_CHECK(check_key("space", space, limits_.max_space));
  if (batch.empty()) return fail(ErrorCode::kInvalidArgument, "storage: nothing to commit");
  if (batch.ops().size() > limits_.max_ops)
    return fail(ErrorCode::kInvalidArgument, "storage: " + std::to_string(batch.ops().size()) +
                                                 " changes in one batch, at most " +
                                                 std::to_string(limits_.max_ops) + " are possible");
  std::vector<coffer_pre> pre;
  std::vector<coffer_op> ops;
  std::vector<const coffer_pre *> pre_pointers;
  std::vector<const coffer_op *> op_pointers;
  pre.reserve(batch.pre().size());
  ops.reserve(batch.ops().size());
  uint64_t newest = 0, total = 0;
  for (const Batch::Pre &p : batch.pre()) {
    COFFER_CHECK(check_key("key", p.key, limits_.max_key));
    newest = std::max(newest, p.revision);
    pre.push_back({sizeof(coffer_pre), 0, str(p.key), p.revision});
    pre_pointers.push_back(&pre.back());
  }
  for (const Batch::Op &o : batch.ops()) {
    COFFER_CHECK(check_key("key", o.key, limits_.max_key));
    if (o.value.size() > limits_.max_value)
      return fail(ErrorCode::kInvalidArgument, "storage: key '" + o.key + "': value of " +
                                                   std::to_string(o.value.size()) + " bytes, at most " +
                                                   std::to_string(limits_.max_value) + " are possible");
    total += o.key.size() + o.value.size();
    ops.push_back({sizeof(coffer_op), o.kind, str(o.key), bytes(o.value)});
    op_pointers.push_back(&ops.back());
  }
  if (total > limits_.max_batch_bytes)
    return fail(ErrorCode::kInvalidArgument, "storage: a batch of " + std::to_string(total) +
                                                 " bytes, at most " +
                                                 std::to_string(limits_.max_batch_bytes) + " are possible");
  const coffer_batch raw = {
      sizeof raw,        0, str(space), pre_pointers.data(), pre_pointers.size(), op_pointers.data(),
      op_pointers.size()};
  uint64_t revision = 0;
  COFFER_CHECK(instance_.call("commit", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.commit(i, c, &raw, &revision);
  }));
  if (revision <= newest)
    return bridge::wrong_answer(instance_, "commit",
                                "answered a revision that is not newer than what it replaced");
  return revision;
}

Result<std::vector<std::string>> Storage::spaces(std::string_view prefix) const {
  COFFER_CHECK(check_prefix(prefix, limits_.max_space));
  struct Answer {
    std::string_view prefix;
    size_t max;
    std::vector<std::string> found;
    Objection wrong;
  } answer{prefix, limits_.max_space, {}};
  const auto emit = [](void *ctx, coffer_str s) noexcept -> int32_t {
    auto &a = *static_cast<Answer *>(ctx);
    const std::string_view space = view(s);
    if (!is_key(space, a.max))
      a.wrong = "answered a space that is none";
    else if (!space.starts_with(a.prefix))
      a.wrong = "answered a space outside of the prefix";
    else if (!contained([&] { a.found.emplace_back(space); }))
      a.wrong = kNoMemory;
    return bool(a.wrong);
  };
  const Result<void> called =
      instance_.call("list spaces", {}, [&](coffer_instance *i, const coffer_call *c) {
        return table_.spaces(i, c, str(prefix), emit, &answer);
      });
  if (answer.wrong) return bridge::wrong_answer(instance_, "list spaces", answer.wrong);
  COFFER_CHECK(called);
  std::ranges::sort(answer.found);
  if (std::ranges::adjacent_find(answer.found) != answer.found.end())
    return bridge::wrong_answer(instance_, "list spaces", "answered a space twice");
  return std::move(answer.found);
}

Result<void> Storage::drop_space(std::string_view space) const {
  COFFER_CHECK(check_key("space", space, limits_.max_space));
  return instance_.call("drop a space", {}, [&](coffer_instance *i, const coffer_call *c) {
    return table_.drop_space(i, c, str(space));
  });
}

}  // namespace coffer
