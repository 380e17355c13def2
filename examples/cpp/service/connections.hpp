// Threads for connections, as many as are needed up to a limit; cpp-httplib hands every accepted connection in.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

/// What becomes of the connection that the current thread has been given.
enum class Seat { served, refused, dropped };

class Connections : public httplib::TaskQueue {
 public:
  /// Serves `limit` connections at once. A few beyond it are told that there is no room; what comes then is dropped.
  explicit Connections(std::size_t limit) : limit_(limit) {}

  static Seat& seat() {
    thread_local Seat current = Seat::served;
    return current;
  }

  void enqueue(std::function<void()> connection) override {
    {
      const std::lock_guard lock(mutex_);
      const Seat given = busy_ < limit_ ? Seat::served : Seat::refused;
      if (busy_ < limit_ + spare && has_thread()) {
        ++busy_;
        waiting_.emplace_back(std::move(connection), given);
        wake_.notify_one();
        return;
      }
    }
    seat() = Seat::dropped;  // this is the thread that accepts: it must not wait for anybody
    connection();
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  static constexpr std::size_t spare = 16;

  /// Starts a thread where those that there are have all got a connection.
  bool has_thread() {
    if (threads_.size() > busy_) return true;
    try {
      threads_.emplace_back([this] { work(); });
      return true;
    } catch (const std::system_error&) {
      return false;
    }
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      {
        const auto [connection, given] = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        seat() = given;
        connection();
      }
      lock.lock();
      --busy_;
    }
  }

  const std::size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<std::function<void()>, Seat>> waiting_;
  std::size_t busy_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};
