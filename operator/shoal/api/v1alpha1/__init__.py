"""The resources of group rl.shoal.dev, version v1alpha1: the source of crds/."""
