// A connection as cpp-httplib sees it: a stream whose every request has a deadline.
#pragma once

#include <httplib.h>

#include <chrono>
#include <cstddef>
#include <string>

using Clock = std::chrono::steady_clock;

class Socket : public httplib::Stream {
 public:
  enum class Head { complete, closed, malformed, too_long, timed_out };

  /// Takes a connected socket and closes it in the end.
  explicit Socket(int descriptor);
  ~Socket() override;
  Socket(const Socket&) = delete;

  /// Waits until a request begins; false when the client has gone, or the deadline has passed, or `wake` is readable.
  bool wait(Clock::time_point deadline, int wake);

  /// Reads a request's line and headers, so that cpp-httplib finds them whole, well-formed and no longer than `longest`.
  Head read_head(std::size_t longest);

  /// Puts a head in place of the one that was read.
  void replace_head(std::string head);

  /// Says when reading and writing give up. cpp-httplib's own timeouts begin anew with every byte.
  void set_deadline(Clock::time_point deadline) { deadline_ = deadline; }
  bool timed_out() const { return timed_out_; }

  /// Ends the answer and discards what the client still sends: closing at once would take the answer away from it.
  void linger(Clock::time_point deadline);

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* out, std::size_t size) override;
  ssize_t write(const char* data, std::size_t size) override;
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return descriptor_; }

 private:
  bool ready(short events, Clock::time_point deadline, int wake = -1);
  ssize_t receive(char* out, std::size_t size);

  int descriptor_;
  std::string buffer_;      // what was received
  std::size_t taken_ = 0;   // and how much of it was read
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timed_out_ = false;
};
