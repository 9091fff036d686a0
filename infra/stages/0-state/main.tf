# The bucket that keeps the state of all other stages, and its key. This stage itself keeps its state beside it: it has
# to exist before there is anywhere else (README.md says how to move it in, and how to import it when it was lost).

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id] # credentials of another account fail here, before anything is made
  default_tags {
    tags = merge(var.tags, { platform = var.name, stage = "0-state", managed-by = "terraform" })
  }
}

module "kms" {
  source     = "../../modules/kms"
  name       = var.name
  account_id = var.account_id
  region     = var.region
  purpose    = "state"
}

module "state" {
  source        = "../../modules/state"
  name          = var.name
  account_id    = var.account_id
  kms_key_arn   = module.kms.key_arn
  force_destroy = var.force_destroy
}
