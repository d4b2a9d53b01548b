// coffer/injector.hpp - C++ face of "coffer.injector/1"; the contract of each call is in injector.h.
#ifndef COFFER_INJECTOR_HPP
#define COFFER_INJECTOR_HPP
#include "injector.h"
#include "plugin.hpp"

namespace coffer::sdk {

class Injector : public Instance {
 public:
  struct Needs {
    coffer_emit_need emit;
    void *ctx;
    bool operator()(std::string_view secret, const coffer_delivery &where) const {
      return emit(ctx, to_str(secret), &where) == 0;
    }
  };
  struct Deliveries {
    coffer_emit_delivery emit;
    void *ctx;
    bool operator()(const coffer_delivery &d) const { return emit(ctx, &d) == 0; }
  };

  virtual void plan(const Call &, const coffer_inject_request &, const Needs &) = 0;
  virtual void render(const Call &, const coffer_inject_request &, const Deliveries &) = 0;

  const void *interface(std::string_view id) noexcept override {
    return id == COFFER_INJECTOR_ID ? &kTable : nullptr;
  }

 private:
  static const coffer_injector kTable;
};

inline const coffer_injector Injector::kTable = {
    sizeof(coffer_injector), 0, 0,
    [](coffer_instance *i, const coffer_call *c, const coffer_inject_request *r, coffer_emit_need emit,
       void *ctx) noexcept -> coffer_status {
      return guard(c, [&] { as<Injector>(i).plan(Call(c), *r, {emit, ctx}); });
    },
    [](coffer_instance *i, const coffer_call *c, const coffer_inject_request *r, coffer_emit_delivery emit,
       void *ctx) noexcept -> coffer_status {
      return guard(c, [&] { as<Injector>(i).render(Call(c), *r, {emit, ctx}); });
    }};

}  // namespace coffer::sdk
#endif
