// Batch norm over the images of all ranks (torch.nn.SyncBatchNorm).
#pragma once

#include <lockstep/layers/module.h>
#include <lockstep/parallel/process_group.h>

namespace lockstep {

/// Makes every batch norm in `module` normalise training batches by the mean and variance over all ranks
/// (torch.nn.SyncBatchNorm.convert_sync_batchnorm). Ranks then need one replica each, and images in every step. `group`
/// must outlive the module. Evaluation is as before.
void convert_sync_batch_norm(Module& module, ProcessGroup& group);

}  // namespace lockstep
