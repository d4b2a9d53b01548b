// coffer-conformance-storage: every promise of storage.h, for any plugin.
#include <coffer/storage.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <random>
#include <set>

#include "faults.h"
#include "storage_client.h"
#include "test_host.h"

namespace coffer::conformance {
namespace {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string every_byte() {
  std::string out;
  for (int i = 0; i < 256; ++i) out.push_back(char(i));
  return out;
}

// A limit of this process, lowered while the object lives.
class LoweredLimit {
 public:
  LoweredLimit(__rlimit_resource which, rlim_t soft) : which_(which) {
    ::getrlimit(which_, &before_);
    rlimit now = before_;
    now.rlim_cur = soft;
    ::setrlimit(which_, &now);
  }
  ~LoweredLimit() { ::setrlimit(which_, &before_); }
  LoweredLimit(const LoweredLimit &) = delete;
  LoweredLimit &operator=(const LoweredLimit &) = delete;

 private:
  __rlimit_resource which_;
  rlimit before_{};
};

class Storage : public PluginTest {
 protected:
  Store store(const OptionMap &changes = {}, uint32_t flags = 0) { return Store(open(changes, flags)); }
  ChildArgs child_args(std::vector<std::string> args = {}) const {
    return {options(), state_dir(), std::move(args)};
  }
  // The options with another folder in the place of "{tmp}".
  OptionMap options_below(const fs::path &dir) const {
    OptionMap out = Plugin::under_test().options();
    for (auto &[key, value] : out)
      for (std::size_t at; (at = value.find("{tmp}")) != std::string::npos;)
        value.replace(at, 5, dir.string());
    return out;
  }
  // Where the plugin keeps its files, if it has an option `path` below "{tmp}".
  std::optional<fs::path> path_option() const {
    const OptionMap all = options();
    const auto it = all.find("path");
    if (it == all.end() || it->second.rfind(tmp().string(), 0) != 0) return std::nullopt;
    return it->second;
  }
  bool shared() { return store().table()->features & COFFER_STORF_SHARED; }
};

// ---- level 1: the plugin as a file and its descriptor ----

TEST_F(Storage, DescribesItself) {
  const coffer_descriptor &d = Plugin::under_test().descriptor();
  ASSERT_TRUE(d.id && d.name && d.version && d.doc);
  EXPECT_NE(std::string(d.name), "");
  for (std::size_t i = 0; i < d.n_options; ++i) {
    EXPECT_TRUE(d.options[i]->key && d.options[i]->doc && *d.options[i]->doc) << "option " << i;
    EXPECT_FALSE((d.options[i]->flags & COFFER_OPTF_SECRET) && d.options[i]->default_value)
        << "a secret option must have no default";
  }
}

TEST_F(Storage, AnswersNoInterfaceThatItDoesNotName) {
  auto instance = open();
  EXPECT_EQ(instance->interface("coffer.storage/999"), nullptr);
  EXPECT_EQ(instance->interface(""), nullptr);
  EXPECT_NE(instance->interface(COFFER_STORAGE_ID), nullptr);
}

TEST_F(Storage, LimitsAreAtLeastThoseOfTheContract) {
  const coffer_storage_limits l = store().limits();
  EXPECT_GE(l.max_ops, 64u);
  EXPECT_GE(l.max_value, (5u << 20) / 4);
  EXPECT_GE(l.max_batch_bytes, (5u << 20) / 4);
  EXPECT_GE(l.max_key, 512u);
  EXPECT_GE(l.max_space, 128u);
}

TEST_F(Storage, ProbeOfAGoodBackendIsOk) {
  auto instance = open();
  TestCall call;
  TestSink health;
  EXPECT_EQ(Plugin::under_test().entry().probe(instance->raw(), call, health), COFFER_OK) << call.message();
  EXPECT_TRUE(health.data().starts_with("{") && health.data().ends_with("}")) << health.data();
}

TEST_F(Storage, ValidateDoesNothingToTheBackend) {
  const OptionMap all = options();
  const OpenArgs args(Plugin::under_test().descriptor(), all, state_dir());
  TestCall call;
  TestSink notes;
  EXPECT_EQ(Plugin::under_test().entry().validate(call, args.raw(), notes), COFFER_OK) << call.message();
  if (const auto path = path_option()) {
    EXPECT_FALSE(fs::exists(*path));
  }
}

// ---- level 2: struct sizes ----

TEST_F(Storage, NothingIsReadBeyondStructSize) {
  Store s = store();
  TestCall plain;
  const coffer_call *raw_call = plain;
  const PageEnd call(raw_call, raw_call->struct_size);
  const std::string key = "k", value = "v", space = "apps/one";
  const coffer_pre pre = {sizeof(coffer_pre), 0, str(key), 0};
  const coffer_op op = {sizeof(coffer_op), COFFER_OP_PUT, str(key), bytes(value)};
  const PageEnd pre_end(&pre, sizeof pre), op_end(&op, sizeof op);
  const coffer_pre *pre_at[] = {pre_end.as<coffer_pre>()};
  const coffer_op *op_at[] = {op_end.as<coffer_op>()};
  const PageEnd pres(pre_at, sizeof pre_at), ops(op_at, sizeof op_at);
  const coffer_batch batch = {sizeof(coffer_batch),
                              0,
                              str(space),
                              pres.as<const coffer_pre *const>(),
                              1,
                              ops.as<const coffer_op *const>(),
                              1};
  const PageEnd batch_end(&batch, sizeof batch);
  uint64_t revision = 0;
  ASSERT_EQ(
      s.table()->commit(s.raw_instance(), call.as<coffer_call>(), batch_end.as<coffer_batch>(), &revision),
      COFFER_OK);
  EXPECT_EQ(s.value("k"), "v");
  coffer_storage_limits empty{};
  empty.struct_size = sizeof empty;
  const PageEnd limits(&empty, sizeof empty);
  EXPECT_EQ(s.table()->limits(s.raw_instance(), call.as<coffer_call>(), limits.as<coffer_storage_limits>()),
            COFFER_OK);
}

TEST_F(Storage, NamesAreReadUpToTheirSize) {
  Store s = store();
  const std::string space = "apps/one";
  ASSERT_TRUE(s.commit(Batch(space).put("key", "value")).ok());
  const PageEnd space_end(space.data(), space.size()), key_end("key", 3);
  TestCall call;
  std::vector<Item> found;
  EXPECT_EQ(
      s.table()->get(
          s.raw_instance(), call, {space_end.as<char>(), space.size()}, {key_end.as<char>(), 3},
          [](void *ctx, coffer_str k, uint64_t r, coffer_bytes v) noexcept -> int32_t {
            static_cast<std::vector<Item> *>(ctx)->push_back({std::string(view(k)), r, std::string(view(v))});
            return 0;
          },
          &found),
      COFFER_OK);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].value, "value");
}

TEST_F(Storage, StructsOfALaterHostWork) {
  Store s = store();
  struct LaterOp {
    coffer_op op;
    uint64_t news[4];
  } op = {{sizeof(LaterOp), COFFER_OP_PUT, str("k"), bytes("v")}, {1, 2, 3, 4}};
  struct LaterBatch {
    coffer_batch batch;
    uint64_t news[4];
  };
  const coffer_op *ops[] = {&op.op};
  const LaterBatch batch = {{sizeof(LaterBatch), 0, str("apps/one"), nullptr, 0, ops, 1},
                            {~0ull, ~0ull, ~0ull, ~0ull}};
  TestCall call;
  uint64_t revision = 0;
  ASSERT_EQ(s.table()->commit(s.raw_instance(), call, &batch.batch, &revision), COFFER_OK) << call.message();
  struct {
    coffer_storage_limits limits;
    uint64_t news;
  } later = {{}, 0x5a5a5a5a5a5a5a5aull};
  later.limits.struct_size = sizeof later;
  ASSERT_EQ(s.table()->limits(s.raw_instance(), call, &later.limits), COFFER_OK);
  EXPECT_EQ(later.news, 0x5a5a5a5a5a5a5a5aull) << "limits wrote a field that it does not know";
  EXPECT_EQ(later.limits.struct_size, sizeof later) << "struct_size is the creator's";
}

// ---- level 3: behaviour ----

TEST_F(Storage, GetOfWhatIsAbsentIsNotFound) {
  Store s = store();
  Item item;
  EXPECT_EQ(s.get("apps/one", "nothing", &item), COFFER_NOT_FOUND);
  ASSERT_TRUE(s.commit(Batch().put("a", "1")).ok());
  EXPECT_EQ(s.get("apps/one", "nothing", &item), COFFER_NOT_FOUND);
  EXPECT_EQ(s.get("apps/two", "a", &item), COFFER_NOT_FOUND) << "spaces are apart";
}

TEST_F(Storage, AValueComesBackByteExact) {
  Store s = store();
  ASSERT_TRUE(
      s.commit(Batch().put("all", every_byte()).put("nul", std::string("\0", 1)).put("empty", "")).ok());
  EXPECT_EQ(s.value("all"), every_byte());
  EXPECT_EQ(s.value("nul"), std::string("\0", 1));
  EXPECT_EQ(s.value("empty"), "") << "an empty value is a value";
  const std::vector<Item> all = s.items();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].value, every_byte());
}

TEST_F(Storage, EachKeyCarriesTheRevisionOfItsCommit) {
  Store s = store();
  const Done first = s.commit(Batch().put("a", "1").put("b", "1"));
  const Done second = s.commit(Batch().put("b", "2"));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(s.revision("a"), first.revision);
  EXPECT_EQ(s.revision("b"), second.revision);
  const std::vector<Item> all = s.items();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].revision, first.revision);
  EXPECT_EQ(all[1].revision, second.revision);
}

TEST_F(Storage, RevisionsRiseAndAreNeverZero) {
  Store s = store();
  uint64_t last = 0;
  for (int i = 0; i < 40; ++i) {
    const Done d = i % 5 == 4 ? s.commit(Batch().del("k" + std::to_string(i - 1)))
                              : s.commit(Batch().put("k" + std::to_string(i), "x"));
    ASSERT_TRUE(d.ok()) << d;
    ASSERT_GT(d.revision, last) << "commit " << i;
    last = d.revision;
  }
}

TEST_F(Storage, RevisionsAreNotReusedAfterDropSpace) {
  Store s = store();
  uint64_t last = 0;
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 3; ++j) {
      const Done d = s.commit(Batch().put("k", "x"));
      ASSERT_TRUE(d.ok()) << d;
      ASSERT_GT(d.revision, last);
      last = d.revision;
    }
    ASSERT_TRUE(s.drop("apps/one").ok());
  }
  Store again = store();
  EXPECT_GT(again.commit(Batch().put("k", "x")).revision, last) << "also when opened anew";
}

TEST_F(Storage, RevisionsAreNotReusedWhenTheLastKeyIsDeleted) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("k", "x")).ok());
  const Done gone = s.commit(Batch().del("k"));
  ASSERT_TRUE(gone.ok());
  EXPECT_GT(store().commit(Batch().put("k", "y")).revision, gone.revision);
}

TEST_F(Storage, ACommitWhosePreconditionsHoldIsMade) {
  Store s = store();
  const Done first = s.commit(Batch().require("head", 0).put("head", "1"));
  ASSERT_TRUE(first.ok()) << first;
  const Done second = s.commit(Batch().require("head", first.revision).require("other", 0).put("head", "2"));
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_EQ(s.value("head"), "2");
  const Done third = s.commit(Batch().require("head", second.revision).del("head"));
  ASSERT_TRUE(third.ok()) << third;
  EXPECT_TRUE(s.commit(Batch().require("head", 0).put("head", "3")).ok()) << "deleted is absent";
}

TEST_F(Storage, AFailedPreconditionIsAbortedAndWritesNothing) {
  Store s = store();
  const Done first = s.commit(Batch().put("head", "1").put("old", "o"));
  const Done second = s.commit(Batch().put("head", "2"));
  ASSERT_TRUE(first.ok() && second.ok());
  const std::vector<Batch> losers = {
      Batch().require("head", 0),               // must be absent, is there
      Batch().require("head", first.revision),  // was true once
      Batch().require("head", second.revision + 1),
      Batch().require("nothing", second.revision),                               // must be there, is absent
      Batch().require("head", second.revision).require("old", second.revision),  // one of two holds
      Batch().require("old", second.revision).require("head", second.revision),
  };
  for (std::size_t i = 0; i < losers.size(); ++i) {
    Batch b = losers[i];
    b.put("head", "3").put("new", "n").del("old");
    EXPECT_EQ(s.commit(b).status, COFFER_ABORTED) << "batch " << i;
    EXPECT_EQ(s.value("head"), "2") << "batch " << i;
    EXPECT_EQ(s.value("new"), "(absent)") << "batch " << i;
    EXPECT_EQ(s.value("old"), "o") << "batch " << i;
  }
  EXPECT_EQ(s.commit(Batch("apps/unseen").require("k", 7).put("k", "x")).status, COFFER_ABORTED);
  EXPECT_THAT(s.spaces(), ElementsAre("apps/one")) << "a failed commit makes no space";
}

TEST_F(Storage, APreconditionMayNameAKeyThatTheBatchDoesNotTouch) {
  Store s = store();
  const Done d = s.commit(Batch().put("guard", "g"));
  EXPECT_TRUE(s.commit(Batch().require("guard", d.revision).put("other", "x")).ok());
  EXPECT_EQ(s.revision("guard"), d.revision);
}

TEST_F(Storage, DeletingAnAbsentKeyIsNoError) {
  Store s = store();
  EXPECT_TRUE(s.commit(Batch().del("nothing")).ok());
  EXPECT_TRUE(s.commit(Batch().put("a", "1").del("nothing")).ok());
  EXPECT_EQ(s.value("a"), "1");
}

TEST_F(Storage, ADeletedKeyIsGoneFromGetAndList) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("a", "1").put("b", "2").put("c", "3")).ok());
  ASSERT_TRUE(s.commit(Batch().del("b").put("a", "4")).ok());
  EXPECT_EQ(s.value("b"), "(absent)");
  EXPECT_EQ(s.value("a"), "4");
  EXPECT_THAT(s.keys(), ElementsAre("a", "c"));
}

TEST_F(Storage, ListIsSortedBytewise) {
  Store s = store();
  const std::vector<std::string> sorted = {"-", ".x",  "0",   "1",   "10", "2",  "A", "Z", "_",
                                           "a", "a-b", "a.b", "a/b", "aa", "ab", "b", "~"};
  std::vector<std::string> mixed = sorted;
  std::shuffle(mixed.begin(), mixed.end(), std::mt19937(7));
  for (const std::string &k : mixed) ASSERT_TRUE(s.commit(Batch().put(k, "v" + k)).ok()) << k;
  EXPECT_EQ(s.keys(), sorted);
  Batch at_once("apps/two");
  for (const std::string &k : mixed) at_once.put(k, "v" + k);
  ASSERT_TRUE(s.commit(at_once).ok());
  EXPECT_EQ(s.keys({.space = "apps/two"}), sorted);
  for (const Item &i : s.items({.space = "apps/two"})) EXPECT_EQ(i.value, "v" + i.key);
}

TEST_F(Storage, ListHonoursPrefixAfterAndLimit) {
  Store s = store();
  Batch b;
  for (const char *k : {"a", "r/1", "r/2", "r/3", "r-x", "r", "rr", "z"}) b.put(k, k);
  ASSERT_TRUE(s.commit(b).ok());
  EXPECT_THAT(s.keys({.prefix = "r/"}), ElementsAre("r/1", "r/2", "r/3"));
  EXPECT_THAT(s.keys({.prefix = "r"}), ElementsAre("r", "r-x", "r/1", "r/2", "r/3", "rr"));
  EXPECT_THAT(s.keys({.prefix = "r/", .after = "r/1"}), ElementsAre("r/2", "r/3"));
  EXPECT_THAT(s.keys({.prefix = "r/", .after = "a"}), ElementsAre("r/1", "r/2", "r/3"));
  EXPECT_THAT(s.keys({.prefix = "r/", .after = "z"}), IsEmpty());
  EXPECT_THAT(s.keys({.prefix = "r/", .after = "r/15"}), ElementsAre("r/2", "r/3"))
      << "`after` need not exist";
  EXPECT_THAT(s.keys({.limit = 2}), ElementsAre("a", "r"));
  EXPECT_THAT(s.keys({.prefix = "r/", .limit = 2}), ElementsAre("r/1", "r/2"));
  EXPECT_THAT(s.keys({.prefix = "r/", .after = "r/1", .limit = 1}), ElementsAre("r/2"));
  EXPECT_THAT(s.keys({.prefix = "r/", .limit = UINT64_MAX}), ElementsAre("r/1", "r/2", "r/3"));
  EXPECT_THAT(s.keys({.prefix = "nothing"}), IsEmpty());
  EXPECT_THAT(s.keys({.prefix = "r%"}), IsEmpty()) << "a prefix is no pattern";
  EXPECT_THAT(s.keys({.space = "apps/unseen"}), IsEmpty());
}

TEST_F(Storage, PagesOfAListMakeTheWhole) {
  Store s = store();
  for (int part = 0; part < 5; ++part) {
    Batch b;
    for (int i = part; i < 500; i += 5) b.put("k/" + std::to_string(i), std::to_string(i));
    ASSERT_TRUE(s.commit(b).ok());
  }
  std::vector<std::string> paged;
  for (std::string after;;) {
    const auto page = s.keys({.prefix = "k/", .after = after, .limit = 37, .values = false});
    if (page.empty()) break;
    ASSERT_LE(page.size(), 37u);
    paged.insert(paged.end(), page.begin(), page.end());
    after = page.back();
  }
  EXPECT_EQ(paged.size(), 500u);
  EXPECT_EQ(paged, s.keys());
}

TEST_F(Storage, ListWithoutValuesGivesKeysAndRevisions) {
  Store s = store();
  const Done d = s.commit(Batch().put("a", "value"));
  const std::vector<Item> items = s.items({.values = false});
  ASSERT_EQ(items.size(), 1u);
  EXPECT_EQ(items[0].key, "a");
  EXPECT_EQ(items[0].revision, d.revision);
  EXPECT_EQ(items[0].value, "");
}

TEST_F(Storage, AnEmitThatWantsNoMoreEndsTheCallWithOk) {
  Store s = store();
  Batch b;
  for (int i = 100; i < 200; ++i) b.put("k" + std::to_string(i), "v");
  ASSERT_TRUE(s.commit(b).ok());
  EXPECT_EQ(s.items({.stop_after = 1}).size(), 1u);
  EXPECT_EQ(s.items({.stop_after = 7}).size(), 7u);
  ASSERT_TRUE(s.commit(Batch("apps/two").put("a", "1")).ok());
  EXPECT_EQ(s.spaces("", 1).size(), 1u);
  EXPECT_TRUE(s.commit(Batch().put("k100", "w")).ok()) << "and leaves the instance in order";
}

TEST_F(Storage, ASpaceExistsWhileItHoldsAKey) {
  Store s = store();
  EXPECT_THAT(s.spaces(), IsEmpty());
  for (const char *space : {"apps/one", "apps/two", "apps", "core", "a-b", "a.b"})
    ASSERT_TRUE(s.commit(Batch(space).put("k", "v")).ok()) << space;
  EXPECT_THAT(s.spaces(), ElementsAre("a-b", "a.b", "apps", "apps/one", "apps/two", "core"));
  EXPECT_THAT(s.spaces("apps/"), ElementsAre("apps/one", "apps/two"));
  EXPECT_THAT(s.spaces("apps/one"), ElementsAre("apps/one"));
  EXPECT_THAT(s.spaces("nothing"), IsEmpty());
  ASSERT_TRUE(s.commit(Batch("core").del("k")).ok());
  ASSERT_TRUE(s.drop("a-b").ok());
  EXPECT_THAT(s.spaces(), ElementsAre("a.b", "apps", "apps/one", "apps/two"));
}

TEST_F(Storage, DropSpaceTakesItsKeysAndNoOthers) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch("apps/one").put("k", "1").put("l", "1")).ok());
  ASSERT_TRUE(s.commit(Batch("apps/one").put("k", "2")).ok());
  ASSERT_TRUE(s.commit(Batch("apps/one/x").put("k", "3")).ok());
  ASSERT_TRUE(s.commit(Batch("apps/onetwo").put("k", "4")).ok());
  ASSERT_TRUE(s.drop("apps/one").ok());
  EXPECT_THAT(s.keys(), IsEmpty());
  EXPECT_EQ(s.value("k"), "(absent)");
  EXPECT_EQ(s.value("k", "apps/one/x"), "3");
  EXPECT_EQ(s.value("k", "apps/onetwo"), "4");
  EXPECT_TRUE(s.drop("apps/one").ok()) << "dropping what is gone is OK";
  EXPECT_TRUE(s.drop("apps/unseen").ok());
  ASSERT_TRUE(s.commit(Batch("apps/one").require("k", 0).put("m", "5")).ok());
  EXPECT_THAT(s.keys(), ElementsAre("m")) << "nothing comes back";
}

TEST_F(Storage, BadNamesAreRefused) {
  Store s = store();
  const coffer_storage_limits l = s.limits();
  ASSERT_TRUE(s.commit(Batch().put("good", "1")).ok());
  std::vector<std::string> bad = {"",
                                  ".",
                                  "..",
                                  "/",
                                  "/a",
                                  "a/",
                                  "a//b",
                                  "a/./b",
                                  "a/../b",
                                  "../b",
                                  "a b",
                                  "a\nb",
                                  "a\tb",
                                  "a%b",
                                  "a,b",
                                  "a:b",
                                  "a'b",
                                  "a\"b",
                                  "a\\b",
                                  "\xc3\xa9",
                                  "a+b",
                                  "a=b",
                                  "a*",
                                  "a?b",
                                  "a\x7f",
                                  "\xff",
                                  std::string("a\0b", 3),
                                  std::string("\0", 1)};
  bad.push_back(std::string(l.max_key + 1, 'k'));
  for (const std::string &name : bad) {
    EXPECT_EQ(s.commit(Batch().put(name, "x")).status, COFFER_INVALID_ARGUMENT) << "put " << name;
    EXPECT_EQ(s.commit(Batch().put("fine", "x").del(name)).status, COFFER_INVALID_ARGUMENT)
        << "delete " << name;
    EXPECT_EQ(s.commit(Batch().require(name, 0).put("fine", "x")).status, COFFER_INVALID_ARGUMENT)
        << "pre " << name;
    Item item;
    EXPECT_EQ(s.get("apps/one", name, &item), COFFER_INVALID_ARGUMENT) << "get " << name;
  }
  bad.back() = std::string(l.max_space + 1, 's');
  for (const std::string &name : bad) {
    EXPECT_EQ(s.commit(Batch(name).put("fine", "x")).status, COFFER_INVALID_ARGUMENT) << "space " << name;
    EXPECT_EQ(s.drop(name).status, COFFER_INVALID_ARGUMENT) << "drop " << name;
    Item item;
    EXPECT_EQ(s.get(name, "good", &item), COFFER_INVALID_ARGUMENT) << "get in " << name;
    std::vector<Item> items;
    EXPECT_EQ(s.list({.space = name}, &items), COFFER_INVALID_ARGUMENT) << "list " << name;
  }
  EXPECT_THAT(s.keys(), ElementsAre("good"));
  EXPECT_THAT(s.spaces(), ElementsAre("apps/one"));
}

TEST_F(Storage, NamesUpToTheLimitsWork) {
  Store s = store();
  const coffer_storage_limits l = s.limits();
  std::string key(l.max_key, 'k'), space(l.max_space, 's'), slashes = "a";
  while (slashes.size() + 2 <= l.max_space) slashes += "/b";
  for (const std::string &name : {space, slashes}) {
    ASSERT_TRUE(s.commit(Batch(name).put(key, "v")).ok()) << name;
    EXPECT_EQ(s.value(key, name), "v");
  }
  EXPECT_EQ(s.spaces().size(), 2u);
}

TEST_F(Storage, NamesThatLookLikeFilesOfTheBackendAreOrdinary) {
  Store s = store();
  for (const char *name : {"FORMAT", "lock", "new", "head", "head.pack", "spaces", "vault.db", "record",
                           "sqlite_master", ".hidden", "-rf", "~", "con", "0000000001.pack"}) {
    ASSERT_TRUE(s.commit(Batch(name).put(name, name)).ok()) << name;
    EXPECT_EQ(s.value(name, name), name);
  }
  EXPECT_EQ(s.spaces().size(), 14u);
}

TEST_F(Storage, CaseMatters) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch("apps/One").put("Key", "1")).ok());
  ASSERT_TRUE(s.commit(Batch("apps/one").put("key", "2").put("KEY", "3")).ok());
  EXPECT_EQ(s.value("Key", "apps/One"), "1");
  EXPECT_EQ(s.value("Key", "apps/one"), "(absent)");
  EXPECT_THAT(s.keys(), ElementsAre("KEY", "key"));
}

TEST_F(Storage, TheLargestValueIsAcceptedAndOneMoreByteRefused) {
  Store s = store();
  const uint64_t max = s.limits().max_value;
  if (max > (64u << 20)) GTEST_SKIP() << "max_value is over 64 MiB";
  std::string value(max, '\0');
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i + 8 <= value.size(); i += 8) {
    const uint64_t r = random();
    std::copy_n(reinterpret_cast<const char *>(&r), 8, value.data() + i);
  }
  ASSERT_TRUE(s.commit(Batch().put("big", value)).ok());
  EXPECT_TRUE(s.value("big") == value);
  EXPECT_EQ(s.commit(Batch().put("big", value + "x").put("small", "x")).status, COFFER_INVALID_ARGUMENT);
  EXPECT_TRUE(store().value("big") == value);
  EXPECT_EQ(s.value("small"), "(absent)");
}

TEST_F(Storage, AnImpossiblyLargeValueIsRefusedUnread) {
  Store s = store();
  void *nothing = ::mmap(nullptr, 1u << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(nothing, MAP_FAILED);
  if (s.limits().max_value < (1u << 30)) {
    const coffer_op op = {sizeof op, COFFER_OP_PUT, str("k"), {static_cast<uint8_t *>(nothing), 1u << 30}};
    const coffer_op *ops[] = {&op};
    const coffer_batch batch = {sizeof batch, 0, str("apps/one"), nullptr, 0, ops, 1};
    TestCall call;
    uint64_t revision = 0;
    EXPECT_EQ(s.table()->commit(s.raw_instance(), call, &batch, &revision), COFFER_INVALID_ARGUMENT);
  }
  ::munmap(nothing, 1u << 30);
}

TEST_F(Storage, MalformedBatchesAreRefusedWhole) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("a", "1")).ok());
  EXPECT_EQ(s.commit(Batch()).status, COFFER_INVALID_ARGUMENT) << "without ops";
  EXPECT_EQ(s.commit(Batch().put("a", "2").put("b", "2").put("a", "3")).status, COFFER_INVALID_ARGUMENT)
      << "a key twice";
  EXPECT_EQ(s.commit(Batch().put("a", "2").del("a")).status, COFFER_INVALID_ARGUMENT)
      << "put and delete of a key";
  for (const uint32_t kind : {0u, 3u, 0xffffffffu}) {
    Batch b;
    b.put("b", "2");
    b.ops.push_back({kind, "c", "2"});
    EXPECT_EQ(s.commit(b).status, COFFER_INVALID_ARGUMENT) << "op kind " << kind;
  }
  EXPECT_THAT(s.keys(), ElementsAre("a"));
  EXPECT_EQ(s.value("a"), "1");
}

TEST_F(Storage, MoreOpsThanTheLimitAreRefused) {
  Store s = store();
  const uint32_t max = s.limits().max_ops;
  if (max > 2'000'000) GTEST_SKIP() << "max_ops is over 2,000,000";
  const coffer_op op = {sizeof op, COFFER_OP_PUT, str("k"), bytes("v")};
  const std::vector<const coffer_op *> ops(std::size_t(max) + 1, &op);
  const coffer_batch batch = {sizeof batch, 0, str("apps/one"), nullptr, 0, ops.data(), ops.size()};
  TestCall call;
  uint64_t revision = 0;
  EXPECT_EQ(s.table()->commit(s.raw_instance(), call, &batch, &revision), COFFER_INVALID_ARGUMENT);
  EXPECT_THAT(s.keys(), IsEmpty());
}

TEST_F(Storage, ThousandsOfOpsGoInOneCommit) {
  Store s = store();
  const std::size_t n = std::min<std::size_t>(10'000, s.limits().max_ops);
  Batch b;
  for (std::size_t i = 0; i < n; ++i)
    b.put("record/" + std::to_string(i * 7919 % n), std::string(200, char('a' + i % 26)));
  const Done d = s.commit(b);
  ASSERT_TRUE(d.ok()) << d;
  const std::vector<Item> all = s.items();
  ASSERT_EQ(all.size(), n);
  for (const Item &i : all) ASSERT_EQ(i.revision, d.revision);
  Batch half;
  for (std::size_t i = 0; i < n; i += 2) half.del("record/" + std::to_string(i));
  for (std::size_t i = 1; i < n; i += 4) half.put("record/" + std::to_string(i), "new");
  ASSERT_TRUE(s.commit(half).ok());
  EXPECT_EQ(s.keys().size(), n / 2);
  EXPECT_EQ(s.value("record/1"), "new");
  EXPECT_EQ(s.value("record/2"), "(absent)");
  EXPECT_EQ(s.value("record/3").size(), 200u);
}

// ---- against a model: many random commits, and what every call answers ----

TEST_F(Storage, ManyRandomCommitsGiveWhatAMapWouldGive) {
  std::mt19937 random(20240229);
  std::map<std::string, std::map<std::string, Item>> model;
  auto s = std::make_unique<Store>(store());
  for (int round = 0; round < 300; ++round) {
    const std::string space = "apps/" + std::to_string(random() % 3);
    auto &now = model[space];
    if (random() % 40 == 0) {
      ASSERT_TRUE(s->drop(space).ok());
      now.clear();
    }
    Batch b(space);
    std::set<std::string> used;
    for (std::size_t i = 0, n = 1 + random() % (round % 50 == 0 ? 300 : 6); i < n; ++i) {
      const std::string key = "k/" + std::to_string(random() % 120);
      if (!used.insert(key).second) continue;
      if (random() % 3 == 0) {
        b.del(key);
      } else {
        b.put(key, std::string(random() % (random() % 20 == 0 ? 20'000 : 60), char('a' + round % 26)));
      }
    }
    const std::string guard = "k/" + std::to_string(random() % 120);
    const bool holds = random() % 4 != 0;
    b.require(guard, (now.count(guard) ? now[guard].revision : 0) + (holds ? 0 : 1));
    const Done d = s->commit(b);
    ASSERT_EQ(d.status, holds ? COFFER_OK : COFFER_ABORTED) << "round " << round;
    if (holds)
      for (const Batch::Op &o : b.ops) {
        if (o.kind == COFFER_OP_PUT) {
          now[o.key] = {o.key, d.revision, o.value};
        } else {
          now.erase(o.key);
        }
      }
    if (round % 25 == 0) s = std::make_unique<Store>(store());
    const std::vector<Item> all = s->items({.space = space});
    ASSERT_EQ(all.size(), now.size()) << "round " << round;
    auto want = now.begin();
    for (const Item &i : all) {
      ASSERT_EQ(i.key, want->first);
      ASSERT_EQ(i.revision, want->second.revision) << i.key;
      ASSERT_EQ(i.value, want->second.value) << i.key;
      ++want;
    }
    Item item;
    const coffer_status got = s->get(space, guard, &item);
    ASSERT_EQ(got, now.count(guard) ? COFFER_OK : COFFER_NOT_FOUND);
  }
}

// ---- level 4: several instances, several processes, sudden ends ----

TEST_F(Storage, WhatWasCommittedIsThereWhenOpenedAgain) {
  const uint64_t revision = store().commit(Batch().put("a", every_byte()).put("e", "")).revision;
  Store s = store();
  EXPECT_EQ(s.value("a"), every_byte());
  EXPECT_EQ(s.value("e"), "");
  EXPECT_EQ(s.revision("a"), revision);
  EXPECT_THAT(s.spaces(), ElementsAre("apps/one"));
}

TEST_F(Storage, TwoInstancesSeeEachOthersCommits) {
  Store a = store();
  if (!(a.table()->features & COFFER_STORF_SHARED)) GTEST_SKIP() << "the plugin does not claim SHARED";
  Store b = store();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE((i % 2 ? a : b).commit(Batch().put("k" + std::to_string(i % 5), std::to_string(i))).ok());
    EXPECT_EQ(a.value("k" + std::to_string(i % 5)), std::to_string(i));
    EXPECT_EQ(b.value("k" + std::to_string(i % 5)), std::to_string(i));
    EXPECT_EQ(a.keys(), b.keys());
  }
  ASSERT_TRUE(a.drop("apps/one").ok());
  EXPECT_THAT(b.keys(), IsEmpty());
}

TEST_F(Storage, OfTwoCommitsOnTheSameRevisionOneLoses) {
  Store a = store();
  if (!(a.table()->features & COFFER_STORF_SHARED)) GTEST_SKIP() << "the plugin does not claim SHARED";
  Store b = store();
  const uint64_t base = a.commit(Batch().put("head", "0")).revision;
  EXPECT_EQ(b.value("head"), "0");
  ASSERT_TRUE(a.commit(Batch().require("head", base).put("head", "a")).ok());
  EXPECT_EQ(b.commit(Batch().require("head", base).put("head", "b")).status, COFFER_ABORTED);
  EXPECT_EQ(b.value("head"), "a");
}

// Adds 1 to a counter `times` times, each on the condition that nobody else has.
int count_up(const ChildArgs &c) {
  Store s(std::make_unique<OpenInstance>(c.options, c.state_dir));
  for (int done = 0, times = std::stoi(c.args.at(0)); done < times;) {
    Item item;
    const bool there = s.get("apps/one", "counter", &item) == COFFER_OK;
    const Done d = s.commit(Batch()
                                .require("counter", item.revision)
                                .put("counter", std::to_string(there ? std::stoi(item.value) + 1 : 1)));
    if (d.ok())
      ++done;
    else if (d.status != COFFER_ABORTED)
      return 1;
  }
  return 0;
}

TEST_F(Storage, NoUpdateIsLostBetweenTwoProcesses) {
  if (!shared()) GTEST_SKIP() << "the plugin does not claim SHARED";
  Child a("count_up", child_args({"100"})), b("count_up", child_args({"100"})),
      c("count_up", child_args({"100"}));
  EXPECT_EQ(a.wait(), 0);
  EXPECT_EQ(b.wait(), 0);
  EXPECT_EQ(c.wait(), 0);
  EXPECT_EQ(store().value("counter"), "300");
}

// Commits for ever: every key of the batch gets the same number, which is told once the commit is
// acknowledged.
int write_on(const ChildArgs &c) {
  Store s(std::make_unique<OpenInstance>(c.options, c.state_dir));
  const std::string at = s.value("k0");
  for (int n = at == "(absent)" ? 1 : std::stoi(at) + 1;; ++n) {
    Batch b;
    for (int k = 0; k < 20; ++k) b.put("k" + std::to_string(k), std::to_string(n));
    b.put("big", std::to_string(n) + std::string(std::size_t(n) * 977 % 20'000, '.'));
    if (n % 3 == 0)
      b.del("gone");
    else
      b.put("gone", std::to_string(n));
    const Done d = s.commit(b);
    if (!d.ok()) return 1;
    tell_parent(std::to_string(n));
  }
}

// Every key says the same number, in one list; answers it.
int whole_state(Store &s) {
  const std::vector<Item> all = s.items();
  if (all.empty()) return 0;
  const int n = std::stoi(all.back().value);
  EXPECT_EQ(all.size(), n % 3 == 0 ? 21u : 22u) << "at " << n;
  for (const Item &i : all) {
    EXPECT_EQ(std::stoi(i.value), n) << i.key << ": half a commit";
    EXPECT_EQ(i.revision, all[0].revision) << i.key;
  }
  return n;
}

TEST_F(Storage, AnAcknowledgedCommitSurvivesKillAndOthersAreWholeOrNot) {
  std::mt19937 random(3);
  int last = 0;
  for (int round = 0; round < 25; ++round) {
    Child child("write_on", child_args());
    for (std::size_t i = 0, n = 1 + random() % 12; i < n; ++i) last = std::stoi(child.read_line().value());
    // Somewhere within the next commits: the spin only spreads the moments.
    for (volatile unsigned spin = random() % 3'000'000; spin;) spin = spin - 1;
    child.signal(SIGKILL);
    while (const auto line = child.read_line()) last = std::stoi(*line);
    ASSERT_EQ(child.wait(), 128 + SIGKILL);
    Store s = store();
    const int found = whole_state(s);
    ASSERT_GE(found, last) << "an acknowledged commit is lost";
    ASSERT_LE(found, last + 1);
    last = found;
  }
}

int open_and_write(const ChildArgs &c) {
  tell_parent("open");
  Store s(std::make_unique<OpenInstance>(c.options, c.state_dir));
  if (!s.commit(Batch().put("k", "v")).ok()) return 1;
  tell_parent("done");
  return 0;
}

TEST_F(Storage, AKillWhileTheBackendIsMadeLeavesOneThatOpens) {
  if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  std::mt19937 random(4);
  for (int round = 0; round < 40; ++round) {
    const fs::path dir = tmp() / ("r" + std::to_string(round));
    fs::create_directory(dir);
    fs::permissions(dir, fs::perms::owner_all);
    const OptionMap there = options_below(dir);
    bool done = false;
    {
      Child child("open_and_write", {there, state_dir(), {}});
      child.read_line();
      for (volatile unsigned spin = random() % 2'000'000; spin;) spin = spin - 1;
      child.signal(SIGKILL);
      while (const auto line = child.read_line()) done = done || *line == "done";
    }
    Store s(std::make_unique<OpenInstance>(there, state_dir()));
    EXPECT_EQ(s.value("k"), done ? "v" : s.value("k"));
    EXPECT_TRUE(s.commit(Batch().put("k", "w")).ok());
  }
}

TEST_F(Storage, TwoProcessesMayMakeTheBackendAtOnce) {
  if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  for (int round = 0; round < 10; ++round) {
    const fs::path dir = tmp() / ("r" + std::to_string(round));
    fs::create_directory(dir);
    fs::permissions(dir, fs::perms::owner_all);
    Child a("open_and_write", {options_below(dir), state_dir(), {}}),
        b("open_and_write", {options_below(dir), state_dir(), {}});
    EXPECT_EQ(a.wait(), 0);
    EXPECT_EQ(b.wait(), 0);
  }
}

TEST_F(Storage, AReaderNeverWaitsForAWriterAndNeverSeesHalfACommit) {
  if (!shared()) GTEST_SKIP() << "the plugin does not claim SHARED";
  Child child("write_on", child_args());
  ASSERT_TRUE(child.read_line());
  Store s = store();
  int last = 0;
  for (int i = 0; i < 150; ++i) {
    const int n = whole_state(s);
    ASSERT_GE(n, last);
    last = n;
  }
  child.signal(SIGSTOP);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) whole_state(s);
  Store other = store();
  whole_state(other);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s) << "a stopped writer holds up readers";
}

TEST_F(Storage, AWriterBehindAStoppedOneEndsAtItsDeadline) {
  if (!shared()) GTEST_SKIP() << "the plugin does not claim SHARED";
  std::mt19937 random(5);
  int held = 0;  // rounds in which the child was stopped with the lock in its hands
  for (int round = 0; round < 40 && held < 4; ++round) {
    Child child("write_on", child_args());
    ASSERT_TRUE(child.read_line());
    for (volatile unsigned spin = random() % 2'000'000; spin;) spin = spin - 1;
    child.signal(SIGSTOP);
    Store s = store();
    TestCall call;
    call.deadline_in(150ms);
    const auto start = std::chrono::steady_clock::now();
    const Done d = s.commit(call, Batch("apps/one").put("mine", "x"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
    if (!d.ok()) {
      ++held;
      EXPECT_THAT(d.status, AnyOf(COFFER_DEADLINE_EXCEEDED, COFFER_UNAVAILABLE)) << d;
      EXPECT_NE(d.message, "");
      TestCall cancelled;
      cancelled.cancellable().cancel();
      const auto again = std::chrono::steady_clock::now();
      EXPECT_THAT(s.commit(cancelled, Batch().put("mine", "x")).status,
                  AnyOf(COFFER_CANCELLED, COFFER_UNAVAILABLE));
      EXPECT_LT(std::chrono::steady_clock::now() - again, 5s);
    }
    child.signal(SIGKILL);
    child.wait();
    ASSERT_TRUE(s.commit(Batch().del("mine")).ok()) << "the lock of a dead writer stays";
  }
  RecordProperty("held", held);
}

TEST_F(Storage, ACancelledCallLeavesAllOrNothing) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("a", "1").put("b", "1")).ok());
  TestCall call;
  call.cancellable().cancel();
  const Done d = s.commit(call, Batch().put("a", "2").put("b", "2"));
  EXPECT_THAT(d.status, AnyOf(COFFER_OK, COFFER_CANCELLED)) << d;
  EXPECT_EQ(s.value("a"), d.ok() ? "2" : "1");
  EXPECT_EQ(s.value("b"), d.ok() ? "2" : "1");
}

// ---- read-only ----

TEST_F(Storage, ReadOnlyReadsAndWritesNothing) {
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  Store s = store({}, COFFER_OPEN_READONLY);
  EXPECT_EQ(s.value("a"), "1");
  EXPECT_THAT(s.keys(), ElementsAre("a"));
  EXPECT_THAT(s.spaces(), ElementsAre("apps/one"));
  EXPECT_EQ(s.commit(Batch().put("a", "2")).status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(s.drop("apps/one").status, COFFER_FAILED_PRECONDITION);
  EXPECT_EQ(s.value("a"), "1");
  EXPECT_TRUE(store().commit(Batch().put("a", "3")).ok());
  EXPECT_EQ(s.value("a"), "3") << "a reader sees later commits";
}

TEST_F(Storage, ReadOnlyMakesNothing) {
  const auto path = path_option();
  if (!path) GTEST_SKIP() << "no option `path` below {tmp}";
  EXPECT_THAT(try_open({}, COFFER_OPEN_READONLY)->status(),
              AnyOf(COFFER_FAILED_PRECONDITION, COFFER_NOT_FOUND));
  EXPECT_FALSE(fs::exists(*path));
}

// ---- level 5: faults ----

void expect_a_sentence(const std::string &message, const std::string &why) {
  EXPECT_NE(message, "") << why;
  EXPECT_EQ(message.find('\n'), std::string::npos) << why << ": " << message;
  EXPECT_LT(message.size(), 5000u) << why;
}

TEST_F(Storage, ACommitSurvivesEachFailingSystemCall) {
  struct Kind {
    int error;
    bool opens;
  };
  for (const Kind kind : {Kind{ENOSPC, false}, Kind{EIO, false}, Kind{EMFILE, true}}) {
    for (const std::size_t size : {std::size_t(10), std::size_t(300'000)}) {
      bool through = false;
      for (int n = 1; n < 500 && !through; ++n) {
        const std::string dir =
            (tmp() / ("f" + std::to_string(kind.error) + "-" + std::to_string(size))).string();
        fs::create_directory(dir);
        const OptionMap there = path_option() ? options_below(dir) : options();
        Store s(std::make_unique<OpenInstance>(there, state_dir()));
        ASSERT_TRUE(s.commit(Batch().put("a", "1").put("b", "1").put("c", "1")).ok());
        const uint64_t before = s.revision("a");
        const std::string value(size, '2');
        Done d;
        std::string where;
        {
          const Fault fault(n, kind.error, kind.opens);
          d = s.commit(Batch().require("a", before).put("a", value).put("b", value).del("c"));
          through = !fault.fired();
          where = std::string(fault.where()) + ", call " + std::to_string(n) + ", errno " +
                  std::to_string(kind.error);
        }
        if (through) {
          ASSERT_TRUE(d.ok()) << d;
        }
        if (!d.ok()) {
          EXPECT_NE(d.status, COFFER_ABORTED) << where << " is no conflict";
          EXPECT_NE(d.status, COFFER_INVALID_ARGUMENT) << where;
          expect_a_sentence(d.message, where);
        }
        Store fresh(std::make_unique<OpenInstance>(there, state_dir()));
        for (Store *each : {&s, &fresh}) {
          const std::string a = each->value("a");
          ASSERT_TRUE(a == value || (a == "1" && !d.ok())) << where;
          ASSERT_TRUE(each->value("b") == a) << where << ": half a commit";
          ASSERT_EQ(each->value("c"), a == "1" ? "1" : "(absent)") << where << ": half a commit";
        }
        const Done next = s.commit(Batch().require("a", s.revision("a")).put("a", "3").put("c", "3"));
        ASSERT_TRUE(next.ok()) << where << ": the store does not go on: " << next;
        ASSERT_GT(next.revision, before);
        ASSERT_EQ(fresh.value("a"), "3") << where;
        ASSERT_TRUE(fresh.drop("apps/one").ok()) << where;
      }
      EXPECT_TRUE(through) << "500 calls and no end";
    }
  }
}

TEST_F(Storage, DropSpaceSurvivesEachFailingSystemCall) {
  Store s = store();
  bool through = false;
  for (int n = 1; n < 500 && !through; ++n) {
    ASSERT_TRUE(s.commit(Batch().put("a", "1").put("b", "1")).ok());
    Done d;
    {
      const Fault fault(n, EIO);
      d = s.drop("apps/one");
      through = !fault.fired();
    }
    const std::size_t keys = s.keys().size();
    ASSERT_TRUE(keys == 0 || (keys == 2 && !d.ok())) << "call " << n << " leaves " << keys << " keys";
    if (!d.ok()) expect_a_sentence(d.message, "call " + std::to_string(n));
  }
  EXPECT_TRUE(through);
}

TEST_F(Storage, MakingTheBackendSurvivesEachFailingSystemCall) {
  if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  bool through = false;
  for (int n = 1; n < 500 && !through; ++n) {
    const fs::path dir = tmp() / ("f" + std::to_string(n));
    fs::create_directory(dir);
    const OptionMap there = options_below(dir);
    {
      const Fault fault(n, ENOSPC);
      const OpenInstance instance(there, state_dir());
      through = !fault.fired();
      if (instance.status() != COFFER_OK) {
        expect_a_sentence(instance.message(), fault.where());
        ASSERT_FALSE(through) << instance.message();
      }
    }
    Store s(std::make_unique<OpenInstance>(there, state_dir()));
    ASSERT_TRUE(s.commit(Batch().put("a", "1")).ok()) << "call " << n;
  }
  EXPECT_TRUE(through);
}

TEST_F(Storage, WithoutFreeDescriptorsItFailsCleanlyAndGoesOn) {
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("a", "1")).ok());
  const auto free_fd = rlim_t(open_descriptors().rbegin()->first) + 1;
  bool through = false;
  for (rlim_t spare = 0; spare < 64 && !through; ++spare) {
    Done d;
    coffer_status opened = COFFER_OK;
    {
      const LoweredLimit limit(RLIMIT_NOFILE, free_fd + spare);
      d = s.commit(Batch().put("a", std::to_string(spare + 2)));
      opened = try_open()->status();
    }
    through = d.ok() && opened == COFFER_OK;
    ASSERT_NE(d.status, COFFER_ABORTED);
    if (d.ok()) {
      ASSERT_EQ(s.value("a"), std::to_string(spare + 2));
    } else {
      expect_a_sentence(d.message, "EMFILE");
    }
    ASSERT_TRUE(s.commit(Batch().put("b", "1")).ok()) << "with " << spare << " spare descriptors before";
  }
  EXPECT_TRUE(through);
}

TEST_F(Storage, AFileSizeLimitFailsTheCommitWhole) {
  ::signal(SIGXFSZ, SIG_IGN);
  Store s = store();
  ASSERT_TRUE(s.commit(Batch().put("a", "1").put("b", "1")).ok());
  const std::string big(1'000'000, 'x');
  Done d;
  {
    const LoweredLimit limit(RLIMIT_FSIZE, 100'000);
    d = s.commit(Batch().put("a", big).put("b", "2"));
  }
  EXPECT_EQ(s.value("a"), d.ok() ? big : "1");
  EXPECT_EQ(s.value("b"), d.ok() ? "2" : "1");
  if (!d.ok()) expect_a_sentence(d.message, "EFBIG");
  ASSERT_TRUE(s.commit(Batch().put("a", big)).ok());
  EXPECT_TRUE(store().value("a") == big);
}

// A small file system of its own; needs root.
class Disk {
 public:
  explicit Disk(fs::path at) : at_(std::move(at)) {
    fs::create_directory(at_);
    mounted_ = ::mount("tmpfs", at_.c_str(), "tmpfs", 0, "size=1m,mode=0700") == 0;
  }
  ~Disk() {
    if (mounted_) ::umount2(at_.c_str(), MNT_DETACH);
  }
  Disk(const Disk &) = delete;
  Disk &operator=(const Disk &) = delete;
  bool mounted() const { return mounted_; }
  bool remount(unsigned long flags, const char *data) {
    return ::mount("tmpfs", at_.c_str(), "tmpfs", MS_REMOUNT | flags, data) == 0;
  }

 private:
  fs::path at_;
  bool mounted_ = false;
};

TEST_F(Storage, PutKeepsOldRecordWhenDiskIsFull) {
  if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  Disk disk(tmp() / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const OptionMap there = options_below(tmp() / "disk");
  Store s(std::make_unique<OpenInstance>(there, state_dir()));
  ASSERT_TRUE(s.commit(Batch().put("old", "kept")).ok());
  int stored = 0;
  Done d;
  for (; stored < 100; ++stored) {
    d = s.commit(Batch()
                     .put("k" + std::to_string(stored), std::string(50'000, 'x'))
                     .put("count", std::to_string(stored + 1)));
    if (!d.ok()) break;
  }
  ASSERT_FALSE(d.ok()) << "5 MB in a file system of 1 MB";
  EXPECT_EQ(d.status, COFFER_RESOURCE_EXHAUSTED) << d;
  expect_a_sentence(d.message, "ENOSPC");
  const auto check = [&](Store &each) {
    EXPECT_EQ(each.value("old"), "kept");
    EXPECT_EQ(each.value("count"), stored ? std::to_string(stored) : "(absent)");
    EXPECT_EQ(each.value("k" + std::to_string(stored)), "(absent)") << "half a commit";
    if (stored) {
      EXPECT_EQ(each.value("k0").size(), 50'000u);
    }
  };
  check(s);
  ASSERT_TRUE(disk.remount(0, "size=16m"));
  EXPECT_TRUE(s.commit(Batch().put("after", "1")).ok()) << "with room again it goes on";
  Store fresh(std::make_unique<OpenInstance>(there, state_dir()));
  check(fresh);
  EXPECT_EQ(fresh.value("after"), "1");
}

TEST_F(Storage, AReadOnlyFileSystemCanBeReadAndIsNamed) {
  if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  Disk disk(tmp() / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const OptionMap there = options_below(tmp() / "disk");
  ASSERT_TRUE(Store(std::make_unique<OpenInstance>(there, state_dir())).commit(Batch().put("a", "1")).ok());
  ASSERT_TRUE(disk.remount(MS_RDONLY, ""));
  {
    Store reader(std::make_unique<OpenInstance>(there, state_dir(), COFFER_OPEN_READONLY));
    EXPECT_EQ(reader.value("a"), "1");
  }
  auto writer = std::make_unique<OpenInstance>(there, state_dir());
  if (writer->status() == COFFER_OK) {
    Store s(std::move(writer));
    const Done d = s.commit(Batch().put("a", "2"));
    EXPECT_THAT(d.status, AnyOf(COFFER_FAILED_PRECONDITION, COFFER_PERMISSION_DENIED)) << d;
    expect_a_sentence(d.message, "EROFS");
  } else {
    expect_a_sentence(writer->message(), "EROFS");
  }
}

// ---- what lies at `path` ----

class StoragePath : public Storage {
 protected:
  void SetUp() override {
    Storage::SetUp();
    if (!path_option()) GTEST_SKIP() << "no option `path` below {tmp}";
  }
  void expect_refused(const std::string &why, const std::string &path) {
    const auto instance = try_open({{"path", path}});
    EXPECT_NE(instance->status(), COFFER_OK) << why;
    EXPECT_NE(instance->status(), COFFER_INTERNAL) << why;
    expect_a_sentence(instance->message(), why);
  }
};

TEST_F(StoragePath, WhatIsNotOursIsRefusedAndStaysAsItIs) {
  const fs::path fifo = tmp() / "fifo", link = tmp() / "link", dangling = tmp() / "dangling";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused("a FIFO", fifo);
  EXPECT_TRUE(fs::is_fifo(fifo));
  expect_refused("a device", "/dev/null");
  const fs::path target = *path_option();
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  fs::create_symlink(target, link);
  expect_refused("a symlink to a vault", link);
  fs::create_symlink(tmp() / "elsewhere", dangling);
  expect_refused("a symlink to nothing", dangling);
  EXPECT_FALSE(fs::exists(tmp() / "elsewhere"));
  expect_refused("below a file", (tmp() / "fifo" / "vault").string());
  expect_refused("no such folder", (tmp() / "no" / "such" / "vault").string());
}

TEST_F(StoragePath, OtherFilesAndFoldersAreRefusedAndStayAsTheyAre) {
  const fs::path file = tmp() / "notes.txt", dir = tmp() / "photos";
  std::ofstream(file) << "not a vault, but something that a person wants to keep\n";
  fs::create_directory(dir);
  std::ofstream(dir / "cat.jpg") << "meow";
  expect_refused("a text file", file);
  expect_refused("a folder of something else", dir);
  EXPECT_EQ(fs::file_size(file), 55u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir), {}), 1);
  std::ofstream(tmp() / "empty").flush();
  expect_refused("an empty file", tmp() / "empty");
  EXPECT_EQ(fs::file_size(tmp() / "empty"), 0u);
}

TEST_F(StoragePath, PlacesThatOthersCanWriteAreRefused) {
  const fs::path open_dir = tmp() / "open";
  fs::create_directory(open_dir);
  fs::permissions(open_dir, fs::perms::all);
  expect_refused("a folder that everybody may write", open_dir / "vault");
  EXPECT_TRUE(fs::is_empty(open_dir));
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  fs::permissions(*path_option(), fs::perms::group_write | fs::perms::others_write, fs::perm_options::add);
  expect_refused("a vault that others may write", *path_option());
  fs::permissions(*path_option(), fs::perms::group_write | fs::perms::others_write, fs::perm_options::remove);
  EXPECT_EQ(store().value("a"), "1");
}

TEST_F(StoragePath, AnotherOwnersVaultIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  ASSERT_EQ(::chown(path_option()->c_str(), 12345, 12345), 0);
  expect_refused("a vault of another user", *path_option());
  ASSERT_EQ(::chown(path_option()->c_str(), 0, 0), 0);
  EXPECT_EQ(store().value("a"), "1");
}

TEST_F(StoragePath, OddPathsAreRefusedOrWork) {
  expect_refused("an empty path", "");
  expect_refused("a path with a newline", (tmp() / "a\nb").string());
  expect_refused("a path with NUL", (tmp() / "a").string() + std::string("\0b", 2));
  expect_refused("a path of 5,000 bytes", tmp().string() + "/" + std::string(5000, 'x'));
  for (const char *name : {"with space", "quo'te", "per%cent", "q?uery#x&mode=memory", "\xc3\xa9t\xc3\xa9",
                           ":memory:", "file:x"}) {
    const std::string path = (tmp() / name).string();
    ASSERT_TRUE(store({{"path", path}}).commit(Batch().put("a", name)).ok()) << name;
    EXPECT_TRUE(fs::exists(path)) << name;
    EXPECT_EQ(store({{"path", path}}).value("a"), name);
  }
}

TEST_F(StoragePath, FilesArePrivate) {
  const mode_t before = ::umask(0);
  ASSERT_TRUE(store().commit(Batch().put("a", "1")).ok());
  ASSERT_TRUE(store().commit(Batch("apps/two").put("a", std::string(100'000, 'x'))).ok());
  ::umask(before);
  for (const auto &e : fs::recursive_directory_iterator(tmp())) {
    if (e.path() == state_dir()) continue;
    EXPECT_EQ(e.status().permissions() & (fs::perms::group_all | fs::perms::others_all), fs::perms::none)
        << e.path();
  }
}

TEST_F(StoragePath, DamagedFilesNeverCrashAndAreReported) {
  const auto fill = [&](const fs::path &dir) {
    fs::create_directory(dir);
    Store s(std::make_unique<OpenInstance>(options_below(dir), state_dir()));
    for (int i = 0; i < 5; ++i)
      ASSERT_TRUE(
          s.commit(Batch().put("k" + std::to_string(i), std::string(std::size_t(1) << (4 * i), 'x'))).ok());
    ASSERT_TRUE(s.commit(Batch("apps/two").put("a", "1")).ok());
  };
  fill(tmp() / "whole");
  std::vector<fs::path> files;
  for (const auto &e : fs::recursive_directory_iterator(tmp() / "whole"))
    if (e.is_regular_file()) files.push_back(fs::relative(e.path(), tmp() / "whole"));
  std::sort(files.begin(), files.end());
  std::mt19937 random(6);
  int round = 0, reported = 0;
  for (const fs::path &file : files) {
    for (const char *how : {"empty", "half", "flip", "flip", "flip", "longer"}) {
      const fs::path dir = tmp() / ("d" + std::to_string(round++));
      fs::copy(tmp() / "whole", dir, fs::copy_options::recursive);
      for (const auto &e : fs::recursive_directory_iterator(dir))
        fs::permissions(e, fs::perms(e.is_directory() ? 0700 : 0600));
      const auto size = fs::file_size(dir / file);
      if (how[0] == 'e') {
        fs::resize_file(dir / file, 0);
      } else if (how[0] == 'h') {
        fs::resize_file(dir / file, size / 2);
      } else {
        std::fstream f(dir / file, std::ios::in | std::ios::out | std::ios::binary);
        f.seekp(how[0] == 'l' ? std::streamoff(size)
                              : std::streamoff(random() % std::max<uintmax_t>(size, 1)));
        f.put(char(random() % 255 + 1));
      }
      const OpenInstance probe(options_below(dir), state_dir());
      if (probe.status() != COFFER_OK) {
        ++reported;
        expect_a_sentence(probe.message(), file.string() + " " + how);
        continue;
      }
      Store s(std::make_unique<OpenInstance>(options_below(dir), state_dir()));
      std::vector<Item> items;
      bool bad = s.list({}, &items) != COFFER_OK;
      Item item;
      for (int i = 0; i < 5; ++i) {
        const coffer_status got = s.get("apps/one", "k" + std::to_string(i), &item);
        bad = bad || (got != COFFER_OK && got != COFFER_NOT_FOUND);
        EXPECT_NE(got, COFFER_INTERNAL) << file << " " << how;
      }
      s.spaces();
      bad = !s.commit(Batch().put("k0", "new")).ok() || bad;
      reported += bad;
    }
  }
  EXPECT_GT(reported, 0) << "none of " << round << " damaged copies was noticed";
}

// ---- level 6 and 7: texts, descriptors, memory ----

TEST_F(Storage, NoValueIsInALogOrAnError) {
  Store s = store();
  const Canary canary;
  std::string value(canary.size(), '\0');
  canary.reveal(value.data());
  ASSERT_TRUE(s.commit(Batch().put("k", value)).ok());
  EXPECT_EQ(s.commit(Batch().require("k", 0).put("k", value)).status, COFFER_ABORTED);
  EXPECT_EQ(s.commit(Batch().put("k", value).put("k", value)).status, COFFER_INVALID_ARGUMENT);
  EXPECT_EQ(s.commit(Batch().put("bad key", value)).status, COFFER_INVALID_ARGUMENT);
  for (int n = 1; n < 12; ++n) {
    const Fault fault(n, EIO);
    s.commit(Batch().put("k", value));
  }
  EXPECT_EQ(s.value("k"), value);
  EXPECT_EQ(canary.leak_in_texts(), "");
}

TEST_F(Storage, ManyCallsLeaveNoDescriptorBehind) {
  Store s = store();
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(s.commit(Batch("apps/" + std::to_string(i)).put("a", "1")).ok());
  const auto work = [&] {
    for (int i = 0; i < 30; ++i) {
      const std::string space = "apps/" + std::to_string(i % 5);
      s.commit(Batch(space).put("a", std::to_string(i)));
      s.commit(Batch(space).require("a", 1).put("a", "lost"));
      s.commit(Batch(space).put("bad key", ""));
      s.value("a", space);
      s.items({.space = space, .stop_after = 1});
      s.spaces();
    }
  };
  work();
  const std::size_t before = open_descriptors().size();
  for (int i = 0; i < 4; ++i) work();
  EXPECT_LE(open_descriptors().size(), before + 8);
}

TEST_F(Storage, OpeningAndClosingLeavesNoDescriptorBehind) {
  {
    Store warm = store();
  }
  const auto before = open_descriptors();
  for (int i = 0; i < 30; ++i) {
    Store s = store();
    s.commit(Batch().put("a", "1"));
    s.value("a");
    s.items();
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) {
  namespace c = coffer::conformance;
  return c::run_suite(
      argc, argv, COFFER_STORAGE_ID,
      {{"count_up", &c::count_up}, {"write_on", &c::write_on}, {"open_and_write", &c::open_and_write}});
}
