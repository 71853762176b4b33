// One CUDA device as far as torch's autograd asks: no driver, no kernel, no memory. Loaded before torch and under the name of the
// driver's library, so that these symbols are found before those of libc10_cuda.so and libcuda.so.1.
#include <cstdint>

namespace c10::cuda {

using DeviceIndex = std::int8_t;
struct CUDAStream {  // laid out as c10::Stream
  std::int8_t device_type, device_index;
  std::int64_t id;
};
constexpr CUDAStream kStream{1, 0, 0};  // 1 is CUDA

DeviceIndex device_count() noexcept { return 1; }
DeviceIndex device_count_ensure_non_zero() { return 1; }
DeviceIndex current_device() { return 0; }
DeviceIndex ExchangeDevice(DeviceIndex) { return 0; }
DeviceIndex MaybeExchangeDevice(DeviceIndex) { return 0; }
bool hasPrimaryContext(DeviceIndex) { return false; }
int GetDevice(DeviceIndex* index) { return *index = 0; }
int GetDeviceCount(int* count) { *count = 1; return 0; }
int SetDevice(DeviceIndex, bool) { return 0; }
int MaybeSetDevice(DeviceIndex) { return 0; }
void set_device(DeviceIndex, bool) {}
void SetTargetDevice() {}
CUDAStream getCurrentCUDAStream(DeviceIndex) { return kStream; }
CUDAStream getDefaultCUDAStream(DeviceIndex) { return kStream; }
void setCurrentCUDAStream(CUDAStream) {}

}  // namespace c10::cuda

extern "C" int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 0;
  return 0;
}
