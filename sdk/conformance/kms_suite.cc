// coffer-conformance-kms PLUGIN.so [key=value ...]: does a plugin keep the contract of coffer/kms.h?
#include <coffer/kms.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <set>
#include <thread>

#include "test_host.h"

namespace coffer::conformance {
namespace {

struct Key {
  std::string key, version, algorithm;
  uint32_t struct_size = 0, flags = 0, state = 0;
  int64_t created_ns = 0;
};

struct Listing {
  std::vector<Key> keys;
  size_t stop_after = SIZE_MAX;

  static int32_t on_key(void *ctx, const coffer_key_info *k) noexcept {
    auto &self = *static_cast<Listing *>(ctx);
    self.keys.push_back({std::string(view(k->key)), std::string(view(k->version)),
                         std::string(view(k->algorithm)), k->struct_size, k->flags, k->state, k->created_ns});
    return self.keys.size() >= self.stop_after ? 1 : 0;
  }
};

struct Wrapped {
  coffer_status status = COFFER_UNKNOWN;
  std::string message, key, ciphertext, version, annotations;
};

// A secret sink that counts how often it was written.
class CountingSink {
 public:
  CountingSink() {
    raw_ = *static_cast<const coffer_sink *>(sink_);
    raw_.host_data = this;
    raw_.write = [](const coffer_sink *s, const void *data, size_t size) noexcept {
      ++self(s).writes;
      const coffer_sink *to = self(s).sink_;
      return to->write(to, data, size);
    };
    raw_.reserve = [](const coffer_sink *s, size_t size) noexcept {
      const coffer_sink *to = self(s).sink_;
      return to->reserve(to, size);
    };
    raw_.commit = [](const coffer_sink *s, size_t used) noexcept {
      ++self(s).writes;
      const coffer_sink *to = self(s).sink_;
      return to->commit(to, used);
    };
  }
  operator const coffer_sink *() const { return &raw_; }
  TestSink &memory() { return sink_; }
  std::string_view data() const { return sink_.data(); }
  int writes = 0;

 private:
  static CountingSink &self(const coffer_sink *s) { return *static_cast<CountingSink *>(s->host_data); }
  TestSink sink_{COFFER_SINK_SECRET};
  coffer_sink raw_{};
};

// Plaintext as a host holds it: in secure memory.
class Secret {
 public:
  explicit Secret(const Canary &c) : size_(c.size()), data_(TestHost::get().secure_alloc(size_)) {
    c.reveal(data_);
  }
  ~Secret() { TestHost::get().secure_free(data_, size_); }
  Secret(const Secret &) = delete;
  Secret &operator=(const Secret &) = delete;
  coffer_bytes bytes() const { return {static_cast<const uint8_t *>(data_), size_}; }

 private:
  size_t size_;
  void *data_;
};

class Kms : public PluginTest {
 protected:
  // Works on one instance; the tests that need two make their own.
  struct Instance {
    explicit Instance(std::unique_ptr<OpenInstance> o)
        : open(std::move(o)), table(open->table<coffer_kms>(COFFER_KMS_ID)) {
      if (!table) throw std::runtime_error("no coffer.kms/1 on an open instance");
    }
    std::unique_ptr<OpenInstance> open;
    const coffer_kms *table;

    coffer_status list(Listing &out, std::string_view key = "") const {
      TestCall call;
      return table->keys(open->raw(), call, str(key), &Listing::on_key, &out);
    }
    std::vector<Key> keys(std::string_view key = "") const {
      Listing out;
      const coffer_status s = list(out, key);
      EXPECT_EQ(s, COFFER_OK) << status_name(s);
      return out.keys;
    }
    coffer_status create(std::string_view key, Listing *out = nullptr, std::string *message = nullptr) const {
      TestCall call;
      Listing ignored;
      const coffer_status s =
          table->create(open->raw(), call, str(key), &Listing::on_key, out ? out : &ignored);
      if (message) *message = call.message();
      return s;
    }
    Wrapped wrap(std::string_view key, coffer_bytes plaintext, std::string_view context) const {
      TestCall call;
      TestSink ciphertext, version, annotations;
      Wrapped w;
      w.key = key;
      w.status = table->wrap(open->raw(), call, str(key), plaintext, bytes(context), ciphertext, version,
                             annotations);
      w.message = call.message();
      w.ciphertext = ciphertext.data();
      w.version = version.data();
      w.annotations = annotations.data();
      return w;
    }
    coffer_status unwrap(const Wrapped &w, std::string_view context, const coffer_sink *out,
                         std::string *message = nullptr) const {
      TestCall call;
      coffer_wrapped in{};
      in.struct_size = sizeof in;
      in.key = str(w.key);
      in.version = str(w.version);
      in.ciphertext = bytes(w.ciphertext);
      in.annotations = bytes(w.annotations);
      const coffer_status s = table->unwrap(open->raw(), call, &in, bytes(context), out);
      if (message) *message = call.message();
      return s;
    }
  };

  Instance start(const OptionMap &changes = {}) const { return Instance(open(changes)); }
  Instance with_key(std::string_view key = "root") const {
    Instance kms = start();
    if (const coffer_status s = kms.create(key); s != COFFER_OK)
      throw std::runtime_error("create: " + status_name(s));
    return kms;
  }

  // The plaintext stays out and the error is one that a person can read.
  static void expect_refused(const Instance &kms, const Wrapped &w, std::string_view context,
                             const Canary &canary, const std::vector<coffer_status> &allowed,
                             const std::string &what) {
    CountingSink out;
    std::string message;
    const coffer_status s = kms.unwrap(w, context, out, &message);
    EXPECT_THAT(allowed, testing::Contains(s)) << what << ": " << status_name(s) << " " << message;
    EXPECT_FALSE(message.empty()) << what << ": a refusal without a word";
    EXPECT_EQ(out.writes, 0) << what << ": something was written to the plaintext sink";
    EXPECT_FALSE(canary.within(out.data())) << what;
  }
};

TEST_F(Kms, TheTableIsCompleteAndSaysItsSize) {
  const Instance kms = start();
  ASSERT_GE(kms.table->struct_size, offsetof(coffer_kms, rotate));
  EXPECT_NE(kms.table->keys, nullptr);
  EXPECT_NE(kms.table->create, nullptr);
  EXPECT_NE(kms.table->wrap, nullptr);
  EXPECT_NE(kms.table->unwrap, nullptr);
  EXPECT_EQ(kms.open->interface("coffer.no-such-kind/1"), nullptr);
}

TEST_F(Kms, AFreshStoreHasNoKeys) { EXPECT_TRUE(start().keys().empty()); }

TEST_F(Kms, KeysOfEverySizeFrom1To64SurviveTheRoundTrip) {
  const Instance kms = with_key();
  for (size_t size = 1; size <= 64; ++size) {
    const Canary canary(size);
    const Secret secret(canary);
    const Wrapped w = kms.wrap("root", secret.bytes(), "context");
    ASSERT_EQ(w.status, COFFER_OK) << size << " bytes: " << w.message;
    EXPECT_FALSE(w.version.empty());
    EXPECT_LE(w.version.size(), 256u);
    EXPECT_LE(w.ciphertext.size(), 8u * 1024);
    EXPECT_LE(w.annotations.size(), 4u * 1024);
    TestSink out(COFFER_SINK_SECRET);
    std::string message;
    ASSERT_EQ(kms.unwrap(w, "context", out, &message), COFFER_OK) << message;
    EXPECT_TRUE(canary.equals(out.data())) << size << " bytes came back changed";
  }
}

TEST_F(Kms, KeysOf0And65BytesAreRefused) {
  const Instance kms = with_key();
  const Canary canary(65);
  const Secret secret(canary);
  for (const size_t size : {size_t{0}, size_t{65}}) {
    const Wrapped w = kms.wrap("root", {secret.bytes().data, size}, "context");
    EXPECT_EQ(w.status, COFFER_INVALID_ARGUMENT) << size << " bytes: " << status_name(w.status);
    EXPECT_FALSE(w.message.empty());
    EXPECT_TRUE(w.ciphertext.empty());
  }
}

TEST_F(Kms, TheCiphertextDoesNotHoldThePlaintext) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  EXPECT_FALSE(canary.within(w.ciphertext));
  EXPECT_FALSE(canary.within(w.annotations));
  EXPECT_FALSE(canary.within(w.version));
}

TEST_F(Kms, WrappingTwiceGivesDifferentBytes) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const Wrapped w = kms.wrap("root", secret.bytes(), "context");
    ASSERT_EQ(w.status, COFFER_OK) << w.message;
    EXPECT_TRUE(seen.insert(w.ciphertext + w.annotations).second) << "the nonce repeats";
    EXPECT_TRUE(seen.insert(w.ciphertext).second) << "the ciphertext repeats";
  }
}

TEST_F(Kms, TheContextIsBound) {
  const Instance kms = with_key();
  if (!(kms.keys().at(0).flags & COFFER_KEYF_CONTEXT))
    GTEST_SKIP() << "no COFFER_KEYF_CONTEXT: the core binds it";
  const Canary canary;
  const Secret secret(canary);
  const std::string zero("\0", 1);
  const Wrapped w = kms.wrap("root", secret.bytes(), "app web epoch 1");
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  for (const std::string &other :
       {std::string(), std::string("app web epoch 2"), std::string("app web epoch "),
        std::string("app web epoch 1") + zero, zero + "app web epoch 1"})
    expect_refused(kms, w, other, canary, {COFFER_DATA_LOSS},
                   "another context of " + std::to_string(other.size()) + " bytes");
  const Wrapped empty = kms.wrap("root", secret.bytes(), "");
  ASSERT_EQ(empty.status, COFFER_OK) << empty.message;
  expect_refused(kms, empty, zero, canary, {COFFER_DATA_LOSS}, "one zero byte in place of no context");
  TestSink out(COFFER_SINK_SECRET);
  EXPECT_EQ(kms.unwrap(empty, "", out), COFFER_OK);
}

TEST_F(Kms, AnyContextOfAnyBytesIsTakenWhole) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  std::string context(64 * 1024, '\0');
  for (size_t i = 0; i < context.size(); ++i) context[i] = static_cast<char>(i * 7);
  const Wrapped w = kms.wrap("root", secret.bytes(), context);
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  TestSink out(COFFER_SINK_SECRET);
  ASSERT_EQ(kms.unwrap(w, context, out), COFFER_OK);
  EXPECT_TRUE(canary.equals(out.data()));
  if (!(kms.keys().at(0).flags & COFFER_KEYF_CONTEXT)) return;
  context.back() = static_cast<char>(context.back() ^ 1);
  expect_refused(kms, w, context, canary, {COFFER_DATA_LOSS}, "the last of 64 KiB of context changed");
}

TEST_F(Kms, EveryChangedByteOfTheCiphertextIsNoticed) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped good = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(good.status, COFFER_OK) << good.message;
  for (size_t i = 0; i < good.ciphertext.size(); ++i) {
    Wrapped bad = good;
    bad.ciphertext[i] = static_cast<char>(bad.ciphertext[i] ^ (1 << (i % 8)));
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS}, "ciphertext byte " + std::to_string(i));
  }
}

TEST_F(Kms, EveryChangedByteOfTheAnnotationsIsNoticed) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped good = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(good.status, COFFER_OK) << good.message;
  if (good.annotations.empty()) GTEST_SKIP() << "the plugin makes no annotations";
  for (size_t i = 0; i < good.annotations.size(); ++i) {
    Wrapped bad = good;
    bad.annotations[i] = static_cast<char>(bad.annotations[i] ^ (1 << (i % 8)));
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS}, "annotations byte " + std::to_string(i));
  }
}

TEST_F(Kms, EveryOtherLengthIsNoticed) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped good = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(good.status, COFFER_OK) << good.message;
  for (size_t size = 0; size < good.ciphertext.size(); ++size) {
    Wrapped bad = good;
    bad.ciphertext.resize(size);
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS},
                   "ciphertext cut to " + std::to_string(size));
  }
  for (size_t size = 0; size < good.annotations.size(); ++size) {
    Wrapped bad = good;
    bad.annotations.resize(size);
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS},
                   "annotations cut to " + std::to_string(size));
  }
  for (const size_t more : {size_t{1}, size_t{16}, size_t{8 * 1024}}) {
    Wrapped bad = good;
    bad.ciphertext.append(more, '\0');
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS},
                   "ciphertext with " + std::to_string(more) + " bytes more");
    bad = good;
    bad.annotations.append(more, '\0');
    expect_refused(kms, bad, "context", canary, {COFFER_DATA_LOSS},
                   "annotations with " + std::to_string(more) + " bytes more");
  }
}

TEST_F(Kms, WhatOneKeyWrappedAnotherDoesNotUnwrap) {
  const Instance kms = with_key();
  const coffer_status s = kms.create("other");
  if (s == COFFER_UNIMPLEMENTED || s == COFFER_FAILED_PRECONDITION)
    GTEST_SKIP() << "the plugin has one key only";
  ASSERT_EQ(s, COFFER_OK);
  const Canary canary;
  const Secret secret(canary);
  Wrapped w = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  w.key = "other";
  expect_refused(kms, w, "context", canary, {COFFER_DATA_LOSS, COFFER_NOT_FOUND}, "wrapped by another key");
}

TEST_F(Kms, AnUnknownKeyIsNotFound) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("nobody", secret.bytes(), "context");
  EXPECT_EQ(w.status, COFFER_NOT_FOUND) << status_name(w.status);
  EXPECT_FALSE(w.message.empty());
  EXPECT_TRUE(w.ciphertext.empty());
  Wrapped real = kms.wrap("root", secret.bytes(), "context");
  for (const std::string &key : {std::string("nobody"), std::string(), std::string("../root"),
                                 std::string("root\0", 5), std::string(10'000, 'k')}) {
    real.key = key;
    expect_refused(kms, real, "context", canary, {COFFER_NOT_FOUND, COFFER_INVALID_ARGUMENT},
                   "key name of " + std::to_string(key.size()) + " bytes");
  }
  EXPECT_TRUE(kms.keys("nobody").empty());
}

TEST_F(Kms, AnUnknownVersionIsNotFound) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped good = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(good.status, COFFER_OK) << good.message;
  for (const std::string &version : {std::string(), good.version + "0", good.version + " ",
                                     std::string("no-such-version"), std::string(256, '9')}) {
    Wrapped bad = good;
    bad.version = version;
    expect_refused(kms, bad, "context", canary, {COFFER_NOT_FOUND},
                   "version of " + std::to_string(version.size()) + " bytes");
  }
}

TEST_F(Kms, KeysNamesOnePrimaryVersionAndWrapUsesIt) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const std::vector<Key> keys = kms.keys("root");
  const auto primaries =
      std::count_if(keys.begin(), keys.end(), [](const Key &k) { return k.flags & COFFER_KEYF_PRIMARY; });
  ASSERT_EQ(primaries, 1);
  for (const Key &k : keys) {
    EXPECT_GE(k.struct_size, sizeof(coffer_key_info));
    EXPECT_EQ(k.key, "root");
    EXPECT_FALSE(k.version.empty());
    EXPECT_LE(k.version.size(), 256u);
    EXPECT_FALSE(k.algorithm.empty());
    if (k.flags & COFFER_KEYF_PRIMARY) {
      EXPECT_EQ(k.state, COFFER_KEY_ENABLED);
      EXPECT_EQ(kms.wrap("root", secret.bytes(), "").version, k.version);
    }
  }
  const std::vector<Key> all = kms.keys();
  EXPECT_EQ(all.size(), keys.size()) << "the list of every key is another one";
}

TEST_F(Kms, CreatingAnExistingKeyChangesNothing) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("root", secret.bytes(), "context");
  const std::vector<Key> before = kms.keys();
  Listing again;
  std::string message;
  ASSERT_EQ(kms.create("root", &again, &message), COFFER_OK) << message;
  ASSERT_EQ(again.keys.size(), 1u) << "create must emit the key that is there";
  EXPECT_EQ(again.keys[0].version, before.at(0).version);
  EXPECT_EQ(kms.keys().size(), before.size());
  TestSink out(COFFER_SINK_SECRET);
  EXPECT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
  EXPECT_TRUE(canary.equals(out.data()));
}

TEST_F(Kms, VersionsAreNeverReusedByRotation) {
  const Instance kms = with_key();
  if (!COFFER_HAS(kms.table, coffer_kms, rotate) || !kms.table->rotate) GTEST_SKIP() << "no rotate";
  const Canary canary;
  const Secret secret(canary);
  std::vector<Wrapped> wrapped{kms.wrap("root", secret.bytes(), "context")};
  std::set<std::string> versions{wrapped[0].version};
  for (int i = 0; i < 3; ++i) {
    TestCall call;
    Listing out;
    ASSERT_EQ(kms.table->rotate(kms.open->raw(), call, str("root"), &Listing::on_key, &out), COFFER_OK)
        << call.message();
    wrapped.push_back(kms.wrap("root", secret.bytes(), "context"));
    EXPECT_TRUE(versions.insert(wrapped.back().version).second) << "a version was used again";
  }
  for (const Wrapped &w : wrapped) {
    TestSink out(COFFER_SINK_SECRET);
    EXPECT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
    EXPECT_TRUE(canary.equals(out.data()));
  }
}

TEST_F(Kms, ListingStopsWhenTheHostSaysSo) {
  const Instance kms = with_key();
  if (kms.create("other") != COFFER_OK) GTEST_SKIP() << "the plugin has one key only";
  Listing out;
  out.stop_after = 1;
  EXPECT_EQ(kms.list(out), COFFER_OK);
  EXPECT_EQ(out.keys.size(), 1u);
}

TEST_F(Kms, ThePlaintextIsWrittenExactlyOnce) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("root", secret.bytes(), "context");
  CountingSink out;
  ASSERT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
  EXPECT_EQ(out.writes, 1);
  EXPECT_TRUE(canary.equals(out.data()));
}

TEST_F(Kms, AfterWrapOnlyTheHostHoldsThePlaintext) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  ASSERT_EQ(canary.copies_in_memory().size(), 1u) << "the test itself holds more than one copy";
  ASSERT_EQ(kms.wrap("root", secret.bytes(), "context").status, COFFER_OK);
  EXPECT_THAT(canary.copies_in_memory(), testing::SizeIs(1));
}

TEST_F(Kms, AfterUnwrapOnlyTheSinkHoldsThePlaintext) {
  const Instance kms = with_key();
  const Canary canary;
  Wrapped w;
  {
    const Secret secret(canary);
    w = kms.wrap("root", secret.bytes(), "context");
  }
  ASSERT_THAT(canary.copies_in_memory(), testing::IsEmpty()) << "left over from wrap";
  TestSink out(COFFER_SINK_SECRET);
  ASSERT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
  EXPECT_THAT(canary.copies_in_memory(), testing::SizeIs(1));
  out.wipe();
  EXPECT_THAT(canary.copies_in_memory(), testing::IsEmpty());
}

TEST_F(Kms, ARefusedUnwrapLeavesNoPlaintextInMemory) {
  const Instance kms = with_key();
  const Canary canary;
  Wrapped w;
  {
    const Secret secret(canary);
    w = kms.wrap("root", secret.bytes(), "context");
  }
  if (kms.keys().at(0).flags & COFFER_KEYF_CONTEXT) {
    TestSink out(COFFER_SINK_SECRET);
    ASSERT_NE(kms.unwrap(w, "another context", out), COFFER_OK);
    EXPECT_THAT(canary.copies_in_memory(), testing::IsEmpty());
  }
  w.ciphertext.back() = static_cast<char>(w.ciphertext.back() ^ 1);
  TestSink out(COFFER_SINK_SECRET);
  ASSERT_NE(kms.unwrap(w, "context", out), COFFER_OK);
  EXPECT_THAT(canary.copies_in_memory(), testing::IsEmpty());
}

TEST_F(Kms, ThePlaintextIsInNoLogErrorOrFile) {
  const Canary canary;
  {
    const Instance kms = with_key();
    const Secret secret(canary);
    Wrapped w = kms.wrap("root", secret.bytes(), "context");
    TestSink out(COFFER_SINK_SECRET);
    ASSERT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
    w.ciphertext[0] = static_cast<char>(w.ciphertext[0] ^ 1);
    ASSERT_NE(kms.unwrap(w, "context", out), COFFER_OK);
    kms.wrap("nobody", secret.bytes(), "context");
  }
  EXPECT_EQ(canary.leak_in_texts(), "");
  EXPECT_THAT(canary.files_below(tmp()), testing::IsEmpty());
}

TEST_F(Kms, AHostWithoutMemoryGetsAnErrorAndNoPlaintext) {
  const Instance kms = with_key();
  const Canary canary;
  Wrapped w;
  {
    const Secret secret(canary);
    w = kms.wrap("root", secret.bytes(), "context");
  }
  CountingSink out;
  out.memory().fail_reserve();
  EXPECT_EQ(kms.unwrap(w, "context", out), COFFER_RESOURCE_EXHAUSTED);
  EXPECT_TRUE(out.data().empty());
  EXPECT_THAT(canary.copies_in_memory(), testing::IsEmpty());
  TestSink retry(COFFER_SINK_SECRET);
  EXPECT_EQ(kms.unwrap(w, "context", retry), COFFER_OK) << "the next call must work";
}

TEST_F(Kms, KeysSurviveCloseAndOpen) {
  const Canary canary;
  Wrapped w;
  std::vector<Key> before;
  {
    const Instance kms = with_key();
    const Secret secret(canary);
    w = kms.wrap("root", secret.bytes(), "context");
    before = kms.keys();
  }
  const Instance kms = start();
  const std::vector<Key> after = kms.keys();
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_EQ(after[i].key, before[i].key);
    EXPECT_EQ(after[i].version, before[i].version);
    EXPECT_EQ(after[i].flags, before[i].flags);
    EXPECT_EQ(after[i].created_ns, before[i].created_ns);
  }
  TestSink out(COFFER_SINK_SECRET);
  std::string message;
  ASSERT_EQ(kms.unwrap(w, "context", out, &message), COFFER_OK) << message;
  EXPECT_TRUE(canary.equals(out.data()));
}

TEST_F(Kms, TwoInstancesAtOnceSeeTheSameKeys) {
  const Instance a = start(), b = start();
  ASSERT_EQ(a.create("root"), COFFER_OK);
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = a.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  TestSink out(COFFER_SINK_SECRET);
  std::string message;
  ASSERT_EQ(b.unwrap(w, "context", out, &message), COFFER_OK) << message;
  EXPECT_TRUE(canary.equals(out.data()));
}

TEST_F(Kms, CreatingTheSameKeyOnManyInstancesMakesOne) {
  constexpr int kThreads = 6;
  std::vector<Instance> kms;
  for (int i = 0; i < kThreads; ++i) kms.push_back(start());
  std::vector<coffer_status> status(kThreads, COFFER_UNKNOWN);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i)
      threads.emplace_back([&, i] { status[size_t(i)] = kms[size_t(i)].create("root"); });
  }
  EXPECT_THAT(status, testing::Each(COFFER_OK));
  EXPECT_EQ(kms[0].keys("root").size(), 1u);
  const Canary canary;
  const Secret secret(canary);
  for (const Instance &from : kms) {
    const Wrapped w = from.wrap("root", secret.bytes(), "context");
    ASSERT_EQ(w.status, COFFER_OK) << w.message;
    for (const Instance &to : kms) {
      TestSink out(COFFER_SINK_SECRET);
      EXPECT_EQ(to.unwrap(w, "context", out), COFFER_OK);
    }
  }
}

TEST_F(Kms, CallsOnOneInstanceMayOverlapIfItSaysSo) {
  if (!(Plugin::under_test().descriptor().flags & COFFER_PLUGIN_CONCURRENT)) GTEST_SKIP() << "not CONCURRENT";
  const Instance kms = with_key();
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        const Canary canary;
        const Secret secret(canary);
        const std::string context = "thread " + std::to_string(t);
        for (int i = 0; i < 50; ++i) {
          const Wrapped w = kms.wrap("root", secret.bytes(), context);
          TestSink out(COFFER_SINK_SECRET, 4096);
          if (w.status != COFFER_OK || kms.unwrap(w, context, out) != COFFER_OK || !canary.equals(out.data()))
            ++wrong;
        }
      });
  }
  EXPECT_EQ(wrong, 0);
}

TEST_F(Kms, StructsAtTheEndOfAPageAreReadNoFurther) {
  const Instance kms = with_key();
  const Canary canary;
  Wrapped w;
  {
    const Secret secret(canary);
    const PageEnd plaintext(secret.bytes().data, secret.bytes().size), key("root", 4), context("context", 7);
    TestCall call;
    TestSink ciphertext, version, annotations;
    const PageEnd raw_call(static_cast<const coffer_call *>(call), sizeof(coffer_call));
    const PageEnd s1(static_cast<const coffer_sink *>(ciphertext), sizeof(coffer_sink));
    const PageEnd s2(static_cast<const coffer_sink *>(version), sizeof(coffer_sink));
    const PageEnd s3(static_cast<const coffer_sink *>(annotations), sizeof(coffer_sink));
    ASSERT_EQ(kms.table->wrap(kms.open->raw(), raw_call.as<coffer_call>(), {key.as<char>(), 4},
                              {plaintext.as<uint8_t>(), canary.size()}, {context.as<uint8_t>(), 7},
                              s1.as<coffer_sink>(), s2.as<coffer_sink>(), s3.as<coffer_sink>()),
              COFFER_OK)
        << call.message();
    w = {COFFER_OK,
         "",
         "root",
         std::string(ciphertext.data()),
         std::string(version.data()),
         std::string(annotations.data())};
  }
  const PageEnd key(w.key.data(), w.key.size()), version(w.version.data(), w.version.size());
  const PageEnd ciphertext(w.ciphertext.data(), w.ciphertext.size());
  const PageEnd annotations(w.annotations.data(), w.annotations.size());
  coffer_wrapped in{};
  in.struct_size = sizeof in;
  in.key = {key.as<char>(), w.key.size()};
  in.version = {version.as<char>(), w.version.size()};
  in.ciphertext = {ciphertext.as<uint8_t>(), w.ciphertext.size()};
  in.annotations = {annotations.as<uint8_t>(), w.annotations.size()};
  const PageEnd raw(&in, sizeof in);
  TestCall call;
  TestSink out(COFFER_SINK_SECRET);
  EXPECT_EQ(kms.table->unwrap(kms.open->raw(), call, raw.as<coffer_wrapped>(), bytes("context"), out),
            COFFER_OK)
      << call.message();
  EXPECT_TRUE(canary.equals(out.data()));
}

TEST_F(Kms, AStructFromANewerHostIsUnderstood) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("root", secret.bytes(), "context");
  struct {
    coffer_wrapped known;
    uint8_t later[64];
  } in{};
  memset(in.later, 0xff, sizeof in.later);
  in.known = {sizeof in, 0, str(w.key), str(w.version), bytes(w.ciphertext), bytes(w.annotations)};
  TestCall call;
  TestSink out(COFFER_SINK_SECRET);
  EXPECT_EQ(kms.table->unwrap(kms.open->raw(), call, &in.known, bytes("context"), out), COFFER_OK)
      << call.message();
}

TEST_F(Kms, AThousandCallsLeaveNoDescriptorBehind) {
  const Instance kms = with_key();
  const Canary canary;
  const Secret secret(canary);
  const auto before = open_descriptors();
  for (int i = 0; i < 250; ++i) {
    Wrapped w = kms.wrap("root", secret.bytes(), "context");
    TestSink out(COFFER_SINK_SECRET, 4096);
    ASSERT_EQ(kms.unwrap(w, "context", out), COFFER_OK);
    w.version = "no such version";
    ASSERT_NE(kms.unwrap(w, "context", out), COFFER_OK);
    kms.keys();
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(Kms, TheHealthReportIsJsonOfAUsableStore) {
  const Instance kms = with_key();
  TestCall call;
  TestSink health;
  ASSERT_EQ(Plugin::under_test().entry().probe(kms.open->raw(), call, health), COFFER_OK) << call.message();
  EXPECT_TRUE(health.data().starts_with("{") && health.data().ends_with("}")) << health.data();
}

TEST_F(Kms, KeyNamesThatAreNoNamesAreRefused) {
  const Instance kms = start();
  for (const std::string &name :
       {std::string(), std::string("../up"), std::string("a/b"), std::string("a\0b", 3), std::string("a\nb"),
        std::string("."), std::string(5000, 'k')}) {
    std::string message;
    const coffer_status s = kms.create(name, nullptr, &message);
    EXPECT_EQ(s, COFFER_INVALID_ARGUMENT) << "name of " << name.size() << " bytes: " << status_name(s);
    EXPECT_FALSE(message.empty());
  }
  EXPECT_TRUE(kms.keys().empty());
}

// ---- other processes ----

// This program again, for one test of KmsChild, on the same store.
class Child {
 public:
  Child(const OptionMap &options, const std::string &state_dir, const char *test) {
    std::vector<std::string> args{"/proc/self/exe", Plugin::under_test().path()};
    for (const auto &[key, value] : options) args.push_back(key + "=" + value);
    args.push_back(std::string("--gtest_filter=KmsChild.") + test);
    args.push_back("--gtest_also_run_disabled_tests");
    args.push_back("--gtest_output=");
    std::vector<char *> argv;
    for (std::string &a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    std::vector<char *> env;
    std::string state = "COFFER_CONFORMANCE_STATE_DIR=" + state_dir;
    for (char **e = environ; *e; ++e) env.push_back(*e);
    env.push_back(state.data());
    env.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), env.data()) != 0) pid_ = -1;
    ::posix_spawn_file_actions_destroy(&actions);
  }
  ~Child() { wait(); }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;
  Child(Child &&o) noexcept : pid_(std::exchange(o.pid_, -1)) {}
  void kill() const {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
  }
  bool succeeded() {
    const int status = wait();
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  int wait() {
    int status = -1;
    if (pid_ > 0) ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }
  pid_t pid_ = -1;
};

using KmsProcesses = Kms;

TEST_F(KmsProcesses, CreatingTheSameKeyInTwoProcessesMakesOne) {
  std::vector<Child> children;
  for (int i = 0; i < 4; ++i) children.emplace_back(options(), state_dir(), "DISABLED_CreateRoot");
  for (Child &c : children) EXPECT_TRUE(c.succeeded()) << "create failed in one process";
  const Instance kms = start();
  EXPECT_EQ(kms.keys().size(), 1u);
  const Canary canary;
  const Secret secret(canary);
  EXPECT_EQ(kms.wrap("root", secret.bytes(), "context").status, COFFER_OK);
}

TEST_F(KmsProcesses, ACreateThatWasKilledCanBeRepeated) {
  for (int i = 0; i < 16; ++i) {
    Child child(options(), state_dir(), "DISABLED_CreateRoot");
    // Not a wait for anything: the kill comes at another moment each time, and any outcome must be whole.
    std::this_thread::sleep_for(std::chrono::milliseconds(2 * i));
    child.kill();
  }
  const Instance kms = start();
  std::string message;
  ASSERT_EQ(kms.create("root", nullptr, &message), COFFER_OK) << message;
  const Canary canary;
  const Secret secret(canary);
  const Wrapped w = kms.wrap("root", secret.bytes(), "context");
  ASSERT_EQ(w.status, COFFER_OK) << w.message;
  TestSink out(COFFER_SINK_SECRET);
  EXPECT_EQ(start().unwrap(w, "context", out), COFFER_OK);
}

// Run only by Child.
class KmsChild : public Kms {};
TEST_F(KmsChild, DISABLED_CreateRoot) {
  const char *state = ::getenv("COFFER_CONFORMANCE_STATE_DIR");
  ASSERT_NE(state, nullptr);
  const Instance kms(std::make_unique<OpenInstance>(Plugin::under_test().options(), state));
  ASSERT_EQ(kms.create("root"), COFFER_OK);
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_KMS_ID); }
