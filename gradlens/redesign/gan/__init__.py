"""The inside of `gradlens.redesign.train`: data, augmentation, one step, instruments, checkpoints, the loop."""
