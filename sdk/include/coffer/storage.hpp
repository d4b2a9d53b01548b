// coffer/storage.hpp - C++ face of "coffer.storage/1"; the contract of each call is in storage.h.
#ifndef COFFER_STORAGE_HPP
#define COFFER_STORAGE_HPP
#include "plugin.hpp"
#include "storage.h"

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

 private:
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
