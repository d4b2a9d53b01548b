// coffer-conformance-injector PLUGIN.so [key=value ...] [--bindings=JSON] [--broken=JSON ...] [--needs=NAME]
//                             [--taken=skip|keep] [--values=exact|any]
//
// Does a plugin keep the contract of coffer/injector.h?  The manifest of the suite has the secrets ALPHA,
// BRAVO, CHARLIE and DELTA.  --bindings: what the plugin works with (its deliveries should concern some of
// these);
// --broken: bindings that it must refuse; --needs: a secret that --bindings names; --taken: whether BRAVO is
// left alone when an earlier injector has taken it; --values: whether deliveries are the secrets byte for
// byte.
#include <coffer/injector.h>
#include <errno.h>
#include <gmock/gmock.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

#include "test_host.h"

namespace coffer::conformance {
namespace {

struct Arguments {
  std::string bindings, needs;
  std::vector<std::string> broken;
  bool taken_is_skipped = true, values_are_exact = true;
};
Arguments arguments;

constexpr uint32_t kAllVias = COFFER_VIA_ENV | COFFER_VIA_TMPFS;
constexpr const char *kNames[] = {"ALPHA", "BRAVO", "CHARLIE", "DELTA"};

// Where something goes; what plan() and render() must agree on.
struct Where {
  uint32_t via = 0, flags = 0, mode = 0, uid = 0, gid = 0;
  std::string name;
  explicit Where(const coffer_delivery &d)
      : via(d.via), flags(d.flags), mode(d.mode), uid(d.uid), gid(d.gid), name(view(d.name)) {}
  bool operator==(const Where &) const = default;
};
void PrintTo(const Where &w, std::ostream *out) { *out << "via " << w.via << " " << w.name; }

struct Need {
  std::string secret;
  Where where;
  bool operator==(const Need &) const = default;
};
void PrintTo(const Need &n, std::ostream *out) { *out << n.secret << " " << testing::PrintToString(n.where); }

struct Plan {
  std::vector<Need> needs;
  std::vector<uint32_t> struct_sizes;
  size_t values = 0, stop_after = SIZE_MAX;
  coffer_status status = COFFER_UNKNOWN;
  std::string message;

  static int32_t on_need(void *ctx, coffer_str secret, const coffer_delivery *d) noexcept {
    auto &self = *static_cast<Plan *>(ctx);
    self.needs.push_back({std::string(view(secret)), Where(*d)});
    self.struct_sizes.push_back(d->struct_size);
    self.values += d->value.size;
    return self.needs.size() >= self.stop_after;
  }
};

// One value, in secure memory as a host holds it.  It has no NUL byte, so that it can go anywhere.
class Value {
 public:
  explicit Value(size_t size) : canary(size), data_(TestHost::get().secure_alloc(size)) {
    for (canary.reveal(data_); std::memchr(data_, 0, size); canary.reveal(data_)) canary = Canary(size);
  }
  ~Value() { TestHost::get().secure_free(data_, canary.size()); }
  Value(const Value &) = delete;
  Value &operator=(const Value &) = delete;
  coffer_bytes bytes() const { return {static_cast<const uint8_t *>(data_), canary.size()}; }
  Canary canary;

 private:
  void *data_;
};

struct Render {
  std::vector<Where> made;
  std::vector<uint32_t> struct_sizes;
  std::vector<size_t> sizes, exact_copies_of;  // SIZE_MAX: of none
  const std::vector<std::unique_ptr<Value>> *values = nullptr;
  size_t stop_after = SIZE_MAX;
  coffer_status status = COFFER_UNKNOWN;
  std::string message;

  static int32_t on_delivery(void *ctx, const coffer_delivery *d) noexcept {
    auto &self = *static_cast<Render *>(ctx);
    self.made.emplace_back(*d);
    self.struct_sizes.push_back(d->struct_size);
    self.sizes.push_back(d->value.size);
    size_t which = SIZE_MAX;
    for (size_t i = 0; self.values && i < self.values->size(); ++i)
      if ((*self.values)[i]->canary.equals(view(d->value))) which = i;
    self.exact_copies_of.push_back(which);
    return self.made.size() >= self.stop_after;
  }
};

// A request and what it points to.
class Request {
 public:
  explicit Request(std::string_view bindings, uint32_t vias = kAllVias) {
    raw.struct_size = sizeof raw;
    raw.vias = vias;
    raw.app = str("web");
    raw.machine = str("machine-1");
    raw.bindings_json = str(bindings);
  }
  Request(const Request &) = delete;
  Request &operator=(const Request &) = delete;
  Request &add(std::string_view name, coffer_bytes value, uint32_t flags = 0) {
    secrets_.push_back(std::make_unique<coffer_secret>(
        coffer_secret{static_cast<uint32_t>(sizeof(coffer_secret)), flags, str(name), value}));
    pointers_.push_back(secrets_.back().get());
    raw.secrets = pointers_.data();
    raw.n_secrets = pointers_.size();
    return *this;
  }
  coffer_inject_request raw{};

 private:
  std::vector<std::unique_ptr<coffer_secret>> secrets_;
  std::vector<const coffer_secret *> pointers_;
};

class Injector : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    for (size_t i = 0; i < std::size(kNames); ++i) values_.push_back(std::make_unique<Value>(32 + i));
    plugin_ = open();
    table_ = plugin_->table<coffer_injector>(COFFER_INJECTOR_ID);
    ASSERT_NE(table_, nullptr);
  }
  void TearDown() override {
    plugin_.reset();
    values_.clear();
    PluginTest::TearDown();
  }

  // Nobody can read a value in plan(): there is none, and where it would be is no memory.
  static coffer_bytes no_value() { return {reinterpret_cast<const uint8_t *>(uintptr_t{8}), 0}; }

  Plan plan(const coffer_inject_request &request, size_t stop_after = SIZE_MAX) const {
    Plan out;
    out.stop_after = stop_after;
    TestCall call;
    out.status = table_->plan(plugin_->raw(), call, &request, &Plan::on_need, &out);
    out.message = call.message();
    return out;
  }
  Plan plan_all(std::string_view bindings, uint32_t vias = kAllVias, std::string_view taken = "",
                std::string_view without = "") const {
    Request request(bindings, vias);
    for (const char *name : kNames)
      if (name != without) request.add(name, no_value(), name == taken ? COFFER_SECRET_TAKEN : 0);
    return plan(request.raw);
  }
  Render render(const coffer_inject_request &request, size_t stop_after = SIZE_MAX) const {
    Render out;
    out.values = &values_;
    out.stop_after = stop_after;
    TestCall call;
    out.status = table_->render(plugin_->raw(), call, &request, &Render::on_delivery, &out);
    out.message = call.message();
    return out;
  }
  // The values of the secrets that `plan` asked for, and no others.
  void give(Request &request, const Plan &plan) const {
    for (size_t i = 0; i < std::size(kNames); ++i)
      if (std::any_of(plan.needs.begin(), plan.needs.end(),
                      [&](const Need &n) { return n.secret == kNames[i]; }))
        request.add(kNames[i], values_[i]->bytes());
  }

  static void expect_refused(const Plan &p, const std::vector<coffer_status> &allowed,
                             const std::string &what) {
    EXPECT_THAT(allowed, testing::Contains(p.status))
        << what << ": " << status_name(p.status) << " " << p.message;
    EXPECT_FALSE(p.message.empty()) << what << ": a refusal without a word";
    EXPECT_THAT(p.needs, testing::IsEmpty()) << what << ": refused, but only after it had asked";
  }

  std::vector<std::unique_ptr<Value>> values_;
  std::unique_ptr<OpenInstance> plugin_;
  const coffer_injector *table_ = nullptr;
};

TEST_F(Injector, TheTableIsCompleteAndSaysItsSize) {
  ASSERT_GE(table_->struct_size, sizeof(coffer_injector));
  EXPECT_NE(table_->plan, nullptr);
  EXPECT_NE(table_->render, nullptr);
  EXPECT_EQ(plugin_->interface("coffer.no-such-kind/1"), nullptr);
}

TEST_F(Injector, PlanWorksWithoutValuesAndAsksOnlyForWhatIsThere) {
  const Plan p = plan_all(arguments.bindings);
  ASSERT_EQ(p.status, COFFER_OK) << p.message;
  ASSERT_FALSE(p.needs.empty()) << "--bindings should make the plugin ask for something";
  EXPECT_EQ(p.values, 0u) << "a value in plan()";
  EXPECT_THAT(p.struct_sizes, testing::Each(testing::Ge(sizeof(coffer_delivery))));
  for (const Need &n : p.needs) {
    EXPECT_TRUE(n.where.via == COFFER_VIA_ENV || n.where.via == COFFER_VIA_TMPFS) << n.where.via;
    EXPECT_FALSE(n.where.name.empty());
    EXPECT_EQ(n.where.name.find('\0'), std::string::npos);
    if (n.secret.empty()) continue;
    EXPECT_THAT(kNames, testing::Contains(n.secret)) << "asked for a name that is not in the manifest";
    EXPECT_TRUE(n.where.flags & COFFER_DLV_SECRET) << n.secret << " goes somewhere without the flag SECRET";
  }
}

TEST_F(Injector, NothingGoesToTheSamePlaceTwice) {
  Plan p = plan_all(arguments.bindings);
  ASSERT_EQ(p.status, COFFER_OK) << p.message;
  std::vector<std::pair<uint32_t, std::string>> places;
  for (const Need &n : p.needs) places.emplace_back(n.where.via, n.where.name);
  std::sort(places.begin(), places.end());
  EXPECT_EQ(std::adjacent_find(places.begin(), places.end()), places.end());
}

TEST_F(Injector, RenderMakesExactlyWhatPlanAnnounced) {
  const Plan p = plan_all(arguments.bindings);
  ASSERT_EQ(p.status, COFFER_OK) << p.message;
  Request request(arguments.bindings);
  give(request, p);
  const Render r = render(request.raw);
  ASSERT_EQ(r.status, COFFER_OK) << r.message;
  std::vector<Where> announced;
  for (const Need &n : p.needs) announced.push_back(n.where);
  EXPECT_THAT(r.made, testing::UnorderedElementsAreArray(announced));
  EXPECT_THAT(r.struct_sizes, testing::Each(testing::Ge(sizeof(coffer_delivery))));
}

TEST_F(Injector, ValuesArriveByteForByte) {
  if (!arguments.values_are_exact) GTEST_SKIP() << "--values=any";
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  give(request, p);
  const Render r = render(request.raw);
  ASSERT_EQ(r.status, COFFER_OK) << r.message;
  for (const Need &n : p.needs) {
    if (n.secret.empty()) continue;
    const auto at = std::find(r.made.begin(), r.made.end(), n.where);
    ASSERT_NE(at, r.made.end()) << n.secret;
    const size_t which = r.exact_copies_of[static_cast<size_t>(at - r.made.begin())];
    ASSERT_LT(which, std::size(kNames)) << n.secret << " was changed on its way";
    EXPECT_EQ(kNames[which], n.secret) << "the value of another secret";
  }
}

TEST_F(Injector, AnEmptyValueIsDelivered) {
  if (!arguments.values_are_exact) GTEST_SKIP() << "--values=any";
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  for (const char *name : kNames)
    if (std::any_of(p.needs.begin(), p.needs.end(), [&](const Need &n) { return n.secret == name; }))
      request.add(name, no_value());
  const Render r = render(request.raw);
  ASSERT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_EQ(r.made.size(), p.needs.size());
}

TEST_F(Injector, TheSameInputGivesTheSameOutput) {
  const Plan first = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  give(request, first);
  const Render once = render(request.raw);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(plan_all(arguments.bindings).needs, first.needs);
    EXPECT_EQ(plan_all(arguments.bindings).needs, first.needs);
    const Render again = render(request.raw);
    EXPECT_EQ(again.made, once.made);
    EXPECT_EQ(again.exact_copies_of, once.exact_copies_of);
  }
  plugin_->close();
  plugin_ = open();
  table_ = plugin_->table<coffer_injector>(COFFER_INJECTOR_ID);
  EXPECT_EQ(plan_all(arguments.bindings).needs, first.needs);
  EXPECT_EQ(render(request.raw).made, once.made);
}

TEST_F(Injector, ATakenNameIsTreatedAsDeclared) {
  const Plan free = plan_all(arguments.bindings), taken = plan_all(arguments.bindings, kAllVias, "BRAVO");
  ASSERT_EQ(taken.status, COFFER_OK) << taken.message;
  std::vector<Need> expected = free.needs;
  const auto is_bravo = [](const Need &n) { return n.secret == "BRAVO"; };
  ASSERT_TRUE(std::any_of(expected.begin(), expected.end(), is_bravo)) << "--bindings should concern BRAVO";
  if (arguments.taken_is_skipped) std::erase_if(expected, is_bravo);
  EXPECT_EQ(taken.needs, expected);
}

TEST_F(Injector, WhatTheRuntimeCannotDoIsRefused) {
  for (const uint32_t vias : {0u, COFFER_VIA_ENV, COFFER_VIA_TMPFS, kAllVias, 0x80000000u}) {
    const Plan p = plan_all(arguments.bindings, vias);
    if (p.status != COFFER_OK) {
      expect_refused(p, {COFFER_FAILED_PRECONDITION}, "vias " + std::to_string(vias));
      continue;
    }
    for (const Need &n : p.needs)
      EXPECT_TRUE(n.where.via & vias) << n.secret << " goes a way that is not there";
  }
  EXPECT_NE(plan_all(arguments.bindings, 0).status, COFFER_OK) << "a runtime that can do nothing";
}

TEST_F(Injector, ANamedSecretThatIsMissingIsNotFoundByName) {
  if (arguments.needs.empty()) GTEST_SKIP() << "no --needs";
  const Plan p = plan_all(arguments.bindings, kAllVias, "", arguments.needs);
  expect_refused(p, {COFFER_NOT_FOUND}, "without " + arguments.needs);
  EXPECT_THAT(p.message, testing::HasSubstr(arguments.needs));
  Request request(arguments.bindings);
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] != arguments.needs) request.add(kNames[i], values_[i]->bytes());
  const Render r = render(request.raw);
  EXPECT_EQ(r.status, COFFER_NOT_FOUND) << status_name(r.status);
  EXPECT_THAT(r.message, testing::HasSubstr(arguments.needs));
}

TEST_F(Injector, BrokenBindingsAreRefusedAndNotQuoted) {
  // The word stands for something that should not have been in the bindings, such as a value.
  constexpr std::string_view kWord = "Zebrafish";
  std::vector<std::string> broken = {
      R"({"Zebrafish)",
      R"({"Zebrafish":)",
      R"({"Zebrafish":"Zebrafish")",
      R"(Zebrafish)",
      R"({"a":Zebrafish})",
      R"({} Zebrafish)",
      R"({"a":"\uZebrafish"})",
      R"(["Zebrafish"])",
      R"("Zebrafish")",
      R"({'a':'Zebrafish'})",
      std::string("{\"Zebrafish\0\":1}", 16),
      std::string("\0", 1),
      std::string(200'000, '['),
      "{\"a\":" + std::string(200'000, '['),
  };
  std::string nested;
  for (int i = 0; i < 200'000; ++i) nested += "{\"a\":";
  broken.push_back(nested);
  broken.insert(broken.end(), arguments.broken.begin(), arguments.broken.end());
  for (size_t i = 0; i < broken.size(); ++i) {
    const std::string what = "bindings " + std::to_string(i) + ": " + broken[i].substr(0, 60);
    const Plan p = plan_all(broken[i]);
    expect_refused(p, {COFFER_INVALID_ARGUMENT}, what);
    EXPECT_THAT(p.message, testing::Not(testing::HasSubstr(std::string(kWord)))) << what;
    Request request(broken[i]);
    for (size_t s = 0; s < std::size(kNames); ++s) request.add(kNames[s], values_[s]->bytes());
    const Render r = render(request.raw);
    EXPECT_EQ(r.status, COFFER_INVALID_ARGUMENT) << what << ": " << status_name(r.status);
    EXPECT_THAT(r.made, testing::IsEmpty()) << what;
  }
  EXPECT_THAT(TestHost::get().logs(), testing::Not(testing::HasSubstr(std::string(kWord))));
}

TEST_F(Injector, AnEmptyManifestAndNoBindingsAreNoFault) {
  const Request request("");
  EXPECT_EQ(plan(request.raw).status, COFFER_OK);
  const Render r = render(request.raw);
  EXPECT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_THAT(r.made, testing::IsEmpty());
}

TEST_F(Injector, EmissionEndsWhenTheHostSaysSo) {
  Request all(arguments.bindings);
  for (const char *name : kNames) all.add(name, no_value());
  const Plan whole = plan(all.raw), p = plan(all.raw, 1);
  ASSERT_GE(whole.needs.size(), 2u) << "--bindings should make at least two deliveries";
  EXPECT_EQ(p.status, COFFER_OK) << p.message;
  EXPECT_EQ(p.needs.size(), 1u);
  Request request(arguments.bindings);
  give(request, whole);
  const Render r = render(request.raw, 1);
  EXPECT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_EQ(r.made.size(), 1u);
}

TEST_F(Injector, AfterRenderOnlyTheHostHoldsTheValues) {
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  give(request, p);
  for (const auto &v : values_)
    ASSERT_THAT(v->canary.copies_in_memory(), testing::SizeIs(1)) << "the test itself";
  ASSERT_EQ(render(request.raw).status, COFFER_OK);
  for (const auto &v : values_) EXPECT_THAT(v->canary.copies_in_memory(), testing::SizeIs(1));
  ASSERT_EQ(render(request.raw, 1).status, COFFER_OK);
  for (const auto &v : values_) EXPECT_THAT(v->canary.copies_in_memory(), testing::SizeIs(1));
}

TEST_F(Injector, ValuesAreInNoLogErrorOrFile) {
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings), powerless(arguments.bindings, 0), broken(R"({"a":)");
  for (Request *r : {&request, &powerless, &broken}) {
    give(*r, p);
    render(r->raw);
  }
  for (const auto &v : values_) {
    EXPECT_EQ(v->canary.leak_in_texts(), "");
    EXPECT_THAT(v->canary.files_below(tmp()), testing::IsEmpty());
  }
}

TEST_F(Injector, StructsAtTheEndOfAPageAreReadNoFurther) {
  const Plan expected = plan_all(arguments.bindings);
  std::vector<std::unique_ptr<PageEnd>> names, values, secrets;
  std::vector<const coffer_secret *> pointers;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (std::none_of(expected.needs.begin(), expected.needs.end(),
                     [&](const Need &n) { return n.secret == kNames[i]; }))
      continue;
    names.push_back(std::make_unique<PageEnd>(kNames[i], std::strlen(kNames[i])));
    values.push_back(std::make_unique<PageEnd>(values_[i]->bytes().data, values_[i]->bytes().size));
    const coffer_secret s{sizeof(coffer_secret),
                          0,
                          {names.back()->as<char>(), std::strlen(kNames[i])},
                          {values.back()->as<uint8_t>(), values_[i]->bytes().size}};
    secrets.push_back(std::make_unique<PageEnd>(&s, sizeof s));
    pointers.push_back(secrets.back()->as<coffer_secret>());
  }
  const PageEnd list(pointers.data(), pointers.size() * sizeof pointers[0]);
  const PageEnd bindings(arguments.bindings.data(), arguments.bindings.size());
  Request request(arguments.bindings);
  request.raw.bindings_json = {bindings.as<char>(), arguments.bindings.size()};
  request.raw.secrets = list.as<const coffer_secret *>();
  request.raw.n_secrets = pointers.size();
  const PageEnd raw(&request.raw, sizeof request.raw);
  const Plan p = plan(*raw.as<coffer_inject_request>());
  EXPECT_EQ(p.status, COFFER_OK) << p.message;
  EXPECT_EQ(p.needs, expected.needs);
  const Render r = render(*raw.as<coffer_inject_request>());
  EXPECT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_EQ(r.made.size(), expected.needs.size());
}

TEST_F(Injector, StructsFromANewerHostAreUnderstood) {
  struct NewSecret {
    coffer_secret known;
    uint8_t later[40];
  };
  struct {
    coffer_inject_request known;
    uint8_t later[40];
  } request{};
  std::vector<NewSecret> secrets(std::size(kNames));
  std::vector<const coffer_secret *> pointers;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    std::memset(secrets[i].later, 0xff, sizeof secrets[i].later);
    secrets[i].known = {sizeof(NewSecret), 0, str(kNames[i]), no_value()};
    pointers.push_back(&secrets[i].known);
  }
  const Request old(arguments.bindings);
  request.known = old.raw;
  std::memset(request.later, 0xff, sizeof request.later);
  request.known.struct_size = sizeof request;
  request.known.secrets = pointers.data();
  request.known.n_secrets = pointers.size();
  const Plan p = plan(request.known);
  EXPECT_EQ(p.status, COFFER_OK) << p.message;
  EXPECT_EQ(p.needs, plan_all(arguments.bindings).needs);
}

TEST_F(Injector, CallsOnOneInstanceMayOverlapIfItSaysSo) {
  if (!(Plugin::under_test().descriptor().flags & COFFER_PLUGIN_CONCURRENT)) GTEST_SKIP() << "not CONCURRENT";
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  give(request, p);
  const Render once = render(request.raw);
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 100; ++i)
          if (plan_all(arguments.bindings).needs != p.needs || render(request.raw).made != once.made) ++wrong;
      });
  }
  EXPECT_EQ(wrong, 0);
}

// ---- no I/O ----

// From here on this process dies when it opens, makes or connects to anything.
bool forbid_io() {
  static constexpr unsigned kForbidden[] = {
#ifdef __NR_open
      __NR_open,
#endif
#ifdef __NR_stat
      __NR_stat,
#endif
#ifdef __NR_fork
      __NR_fork,
#endif
      __NR_openat, __NR_openat2, __NR_newfstatat, __NR_statx,        __NR_socket,   __NR_connect, __NR_execve,
      __NR_sendto, __NR_sendmsg, __NR_pipe2,      __NR_memfd_create, __NR_unlinkat, __NR_mkdirat, __NR_clone,
  };
  std::vector<sock_filter> program;
  program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const unsigned nr : kForbidden) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_F(Injector, PlanAndRenderDoNoInputOrOutputAndReadNoEnvironment) {
  const Plan p = plan_all(arguments.bindings);
  Request request(arguments.bindings);
  give(request, p);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    void *nowhere = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!forbid_io()) ::_exit(77);
    environ = static_cast<char **>(nowhere);
    if (plan_all(arguments.bindings).needs != p.needs) ::_exit(1);
    if (render(request.raw).status != COFFER_OK) ::_exit(2);
    if (plan_all("{").status == COFFER_OK) ::_exit(3);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "seccomp is not available here";
  EXPECT_FALSE(WIFSIGNALED(status)) << "killed by signal " << WTERMSIG(status)
                                    << ": I/O (31) or a look at the environment (11)";
  if (WIFEXITED(status)) {
    EXPECT_EQ(WEXITSTATUS(status), 0) << "another answer than before: 1 plan, 2 render, 3 broken bindings";
  }
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) {
  using coffer::conformance::arguments;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const std::string value(arg.substr(std::min(arg.find('=') + 1, arg.size())));
    if (arg.starts_with("--bindings="))
      arguments.bindings = value;
    else if (arg.starts_with("--broken="))
      arguments.broken.push_back(value);
    else if (arg.starts_with("--needs="))
      arguments.needs = value;
    else if (arg == "--taken=skip" || arg == "--taken=keep")
      arguments.taken_is_skipped = value == "skip";
    else if (arg == "--values=exact" || arg == "--values=any")
      arguments.values_are_exact = value == "exact";
    else
      argv[kept++] = argv[i];
  }
  argv[kept] = nullptr;
  return coffer::conformance::run_suite(kept, argv, COFFER_INJECTOR_ID);
}
