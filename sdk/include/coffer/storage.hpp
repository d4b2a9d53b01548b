// coffer/storage.hpp - C++ face of "coffer.storage/1"; the contract of each call is in storage.h.
#ifndef COFFER_STORAGE_HPP
#define COFFER_STORAGE_HPP
#include "plugin.hpp"
#include "storage.h"

#include <algorithm>

namespace coffer::sdk {

class Storage : public Instance {
 public:
  struct Limits {
    uint32_t max_ops = 1u << 20;
    uint64_t max_value = 16u << 20, max_batch_bytes = 256u << 20;
    uint32_t max_key = 512, max_space = 128;
  };
  // Answers false when the host wants no more.
  struct Values {
    coffer_emit_value emit;
    void *ctx;
    bool operator()(std::string_view key, uint64_t revision, std::string_view value) const {
      return emit(ctx, to_str(key), revision, to_bytes(value)) == 0;
    }
  };
  struct Spaces {
    coffer_emit_space emit;
    void *ctx;
    bool operator()(std::string_view space) const { return emit(ctx, to_str(space)) == 0; }
  };

  virtual Limits limits() { return {}; }
  virtual void get(const Call &, std::string_view space, std::string_view key, const Values &) = 0;
  virtual void list(const Call &, std::string_view space, std::string_view prefix, std::string_view after,
                    uint64_t limit, bool with_values, const Values &) = 0;
  // Answers the revision.  Throws ABORTED when a precondition failed.
  virtual uint64_t commit(const Call &, const coffer_batch &) = 0;
  virtual void spaces(const Call &, std::string_view prefix, const Spaces &) = 0;
  virtual void drop_space(const Call &, std::string_view space) = 0;

  const void *interface(std::string_view id) noexcept override {
    return id == COFFER_STORAGE_ID ? &kTable : nullptr;
  }

 protected:
  static bool is_space(std::string_view name, const Limits &l) noexcept { return is_path(name, l.max_space); }
  static void check_space(std::string_view space, const Limits &l) {
    if (!is_space(space, l)) throw Error{COFFER_INVALID_ARGUMENT, "the name of a space is not well-formed"};
  }
  static void check_key(std::string_view key, const Limits &l) {
    if (!is_path(key, l.max_key)) throw Error{COFFER_INVALID_ARGUMENT, "a key is not well-formed"};
  }
  // The operations of a batch in key order, after every check that needs no look into the backend.
  static std::vector<const coffer_op *> sorted_ops(const coffer_batch &batch, const Limits &l) {
    check_space(view(batch.space), l);
    const auto refuse_if = [](bool wrong, const char *why) {
      if (wrong) throw Error{COFFER_INVALID_ARGUMENT, why};
    };
    refuse_if(batch.n_ops == 0, "the batch is empty");
    refuse_if(batch.n_ops > l.max_ops, "the batch has too many operations");
    for (size_t i = 0; i < batch.n_pre; ++i) check_key(view(batch.pre[i]->key), l);
    std::vector<const coffer_op *> ops(batch.ops, batch.ops + batch.n_ops);
    uint64_t sum = 0;
    for (const coffer_op *op : ops) {
      refuse_if(op->kind != COFFER_OP_PUT && op->kind != COFFER_OP_DELETE,
                "the batch holds an unknown operation");
      check_key(view(op->key), l);
      if (op->kind != COFFER_OP_PUT) continue;
      refuse_if(op->value.size > l.max_value, "a value is larger than max_value");
      refuse_if((sum += op->value.size) > l.max_batch_bytes, "the batch is larger than max_batch_bytes");
    }
    const auto by_key = [](const coffer_op *a, const coffer_op *b) { return view(a->key) < view(b->key); };
    if (!std::is_sorted(ops.begin(), ops.end(), by_key)) std::sort(ops.begin(), ops.end(), by_key);
    for (size_t i = 1; i < ops.size(); ++i)
      refuse_if(view(ops[i]->key) == view(ops[i - 1]->key), "the batch names a key twice");
    return ops;
  }

 private:
  // [A-Za-z0-9._~-] and '/', no empty, "." or ".." segment
  static bool is_path(std::string_view name, size_t limit) noexcept {
    if (name.empty() || name.size() > limit) return false;
    for (size_t start = 0, i = 0; i <= name.size(); ++i) {
      if (i == name.size() || name[i] == '/') {
        const std::string_view segment = name.substr(start, i - start);
        if (segment.empty() || segment == "." || segment == "..") return false;
        start = i + 1;
        continue;
      }
      const char c = name[i];
      if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
            c == '_' || c == '~' || c == '-'))
        return false;
    }
    return true;
  }

  static const coffer_storage kTable;
};

inline const coffer_storage Storage::kTable = {
    sizeof(coffer_storage),
    0,
    COFFER_STORF_SHARED,
    [](coffer_instance *i, const coffer_call *c, coffer_storage_limits *out) noexcept -> coffer_status {
      return guard(c, [&] {
        const Limits l = as<Storage>(i).limits();
        coffer_storage_limits full{};
        full.struct_size = out->struct_size;
        full.max_ops = l.max_ops;
        full.max_value = l.max_value;
        full.max_batch_bytes = l.max_batch_bytes;
        full.max_key = l.max_key;
        full.max_space = l.max_space;
        std::memcpy(out, &full, out->struct_size < sizeof full ? out->struct_size : sizeof full);
      });
    },
    [](coffer_instance *i, const coffer_call *c, coffer_str space, coffer_str key, coffer_emit_value emit,
       void *ctx) noexcept -> coffer_status {
      return guard(c, [&] { as<Storage>(i).get(Call(c), view(space), view(key), {emit, ctx}); });
    },
    [](coffer_instance *i, const coffer_call *c, coffer_str space, coffer_str prefix, coffer_str after,
       uint64_t limit, uint32_t with_values, coffer_emit_value emit, void *ctx) noexcept -> coffer_status {
      return guard(c, [&] {
        as<Storage>(i).list(Call(c), view(space), view(prefix), view(after), limit, with_values != 0,
                            {emit, ctx});
      });
    },
    [](coffer_instance *i, const coffer_call *c, const coffer_batch *b, uint64_t *revision) noexcept
        -> coffer_status { return guard(c, [&] { *revision = as<Storage>(i).commit(Call(c), *b); }); },
    [](coffer_instance *i, const coffer_call *c, coffer_str prefix, coffer_emit_space emit,
       void *ctx) noexcept -> coffer_status {
      return guard(c, [&] { as<Storage>(i).spaces(Call(c), view(prefix), {emit, ctx}); });
    },
    [](coffer_instance *i, const coffer_call *c, coffer_str space) noexcept -> coffer_status {
      return guard(c, [&] { as<Storage>(i).drop_space(Call(c), view(space)); });
    }};

}  // namespace coffer::sdk
#endif
