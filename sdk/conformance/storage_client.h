// A storage plugin's calls in C++ form, for the tests.
#ifndef COFFER_CONFORMANCE_STORAGE_CLIENT_H
#define COFFER_CONFORMANCE_STORAGE_CLIENT_H
#include <coffer/storage.h>

#include <algorithm>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "test_host.h"

namespace coffer::conformance {

struct Item {
  std::string key;
  uint64_t revision = 0;
  std::string value;
};

// A batch that owns what it names.
struct Batch {
  std::string space = "apps/one";
  std::vector<std::pair<std::string, uint64_t>> pre = {};
  struct Op {
    uint32_t kind;
    std::string key, value;
  };
  std::vector<Op> ops = {};

  explicit Batch(std::string in = "apps/one") : space(std::move(in)) {}
  Batch &require(std::string key, uint64_t revision) {
    pre.emplace_back(std::move(key), revision);
    return *this;
  }
  Batch &put(std::string key, std::string value) {
    ops.push_back({COFFER_OP_PUT, std::move(key), std::move(value)});
    return *this;
  }
  Batch &del(std::string key) {
    ops.push_back({COFFER_OP_DELETE, std::move(key), {}});
    return *this;
  }
};

struct Done {
  coffer_status status = COFFER_OK;
  uint64_t revision = 0;
  std::string message = {};
  bool ok() const { return status == COFFER_OK; }
};
inline std::ostream &operator<<(std::ostream &out, const Done &d) {
  return out << status_name(d.status) << " " << d.message;
}

// An opened plugin with the calls in C++ form.
class Store {
 public:
  explicit Store(std::unique_ptr<OpenInstance> instance)
      : instance_(std::move(instance)), table_(instance_->table<coffer_storage>(COFFER_STORAGE_ID)) {
    if (!table_) throw std::runtime_error("the instance has no " COFFER_STORAGE_ID);
  }

  Done commit(const Batch &b) {
    TestCall call;
    return commit(call, b);
  }
  Done commit(TestCall &call, const Batch &b) {
    std::vector<coffer_pre> pre;
    std::vector<coffer_op> ops;
    for (const auto &[key, revision] : b.pre) pre.push_back({sizeof(coffer_pre), 0, str(key), revision});
    for (const Batch::Op &o : b.ops) ops.push_back({sizeof(coffer_op), o.kind, str(o.key), bytes(o.value)});
    std::vector<const coffer_pre *> pre_at;
    std::vector<const coffer_op *> op_at;
    for (const coffer_pre &p : pre) pre_at.push_back(&p);
    for (const coffer_op &o : ops) op_at.push_back(&o);
    const coffer_batch raw = {sizeof(coffer_batch), 0,           str(b.space), pre_at.data(), pre_at.size(),
                              op_at.data(),         op_at.size()};
    Done d;
    d.status = table_->commit(raw_instance(), call, &raw, &d.revision);
    d.message = call.message();
    return d;
  }

  coffer_status get(const std::string &space, const std::string &key, Item *out) {
    TestCall call;
    std::vector<Item> items;
    const coffer_status s = table_->get(raw_instance(), call, str(space), str(key), &keep, &items);
    if (s == COFFER_OK) {
      EXPECT_EQ(items.size(), 1u) << "get answers OK with " << items.size() << " values";
    } else {
      EXPECT_TRUE(items.empty()) << "get emits a value and then fails";
    }
    if (items.size() == 1) *out = items[0];
    return s;
  }
  // "(absent)" or the value; throws on any failure.
  std::string value(const std::string &key, const std::string &space = "apps/one") {
    Item item;
    const coffer_status s = get(space, key, &item);
    if (s == COFFER_NOT_FOUND) return "(absent)";
    if (s != COFFER_OK) throw std::runtime_error("get answers " + status_name(s));
    EXPECT_EQ(item.key, key);
    return item.value;
  }
  uint64_t revision(const std::string &key, const std::string &space = "apps/one") {
    Item item;
    return get(space, key, &item) == COFFER_OK ? item.revision : 0;
  }

  struct Query {
    std::string space = "apps/one", prefix = {}, after = {};
    uint64_t limit = 0;
    bool values = true;
    std::size_t stop_after = SIZE_MAX;
  };
  coffer_status list(const Query &q, std::vector<Item> *out) {
    TestCall call;
    Stopper stopper{out, q.stop_after};
    return table_->list(
        raw_instance(), call, str(q.space), str(q.prefix), str(q.after), q.limit, q.values,
        [](void *ctx, coffer_str key, uint64_t revision, coffer_bytes value) noexcept -> int32_t {
          auto *s = static_cast<Stopper *>(ctx);
          s->items->push_back({std::string(view(key)), revision, std::string(view(value))});
          return s->items->size() >= s->stop_after;
        },
        &stopper);
  }
  std::vector<Item> items(const Query &q) {
    std::vector<Item> out;
    if (const coffer_status s = list(q, &out); s != COFFER_OK)
      throw std::runtime_error("list answers " + status_name(s));
    return out;
  }
  std::vector<Item> items() { return items(Query{}); }
  std::vector<std::string> keys(const Query &q) {
    std::vector<std::string> out;
    for (const Item &i : items(q)) out.push_back(i.key);
    return out;
  }
  std::vector<std::string> keys() { return keys(Query{}); }

  std::vector<std::string> spaces(const std::string &prefix = "", std::size_t stop_after = SIZE_MAX) {
    TestCall call;
    std::pair<std::vector<std::string>, std::size_t> out{{}, stop_after};
    const coffer_status s = table_->spaces(
        raw_instance(), call, str(prefix),
        [](void *ctx, coffer_str space) noexcept -> int32_t {
          auto *o = static_cast<decltype(out) *>(ctx);
          o->first.emplace_back(view(space));
          return o->first.size() >= o->second;
        },
        &out);
    if (s != COFFER_OK) throw std::runtime_error("spaces answers " + status_name(s));
    std::sort(out.first.begin(), out.first.end());
    return out.first;
  }
  Done drop(const std::string &space) {
    TestCall call;
    Done d;
    d.status = table_->drop_space(raw_instance(), call, str(space));
    d.message = call.message();
    return d;
  }
  coffer_storage_limits limits() {
    TestCall call;
    coffer_storage_limits l{};
    l.struct_size = sizeof l;
    if (table_->limits(raw_instance(), call, &l) != COFFER_OK) throw std::runtime_error("limits fails");
    return l;
  }

  coffer_instance *raw_instance() const { return instance_->raw(); }
  const coffer_storage *table() const { return table_; }

 private:
  struct Stopper {
    std::vector<Item> *items;
    std::size_t stop_after;
  };
  static int32_t keep(void *ctx, coffer_str key, uint64_t revision, coffer_bytes value) noexcept {
    static_cast<std::vector<Item> *>(ctx)->push_back(
        {std::string(view(key)), revision, std::string(view(value))});
    return 0;
  }

  std::unique_ptr<OpenInstance> instance_;
  const coffer_storage *table_;
};

}  // namespace coffer::conformance
#endif
