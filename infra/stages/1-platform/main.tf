# The ground that jobs and serving stand on. Read it from top to bottom: each module takes only what stands above it.

locals {
  tags = merge(var.tags, { platform = var.name, managed-by = "terraform" })
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id] # credentials of another account fail here, before anything is made
  default_tags {
    tags = merge(local.tags, { stage = "1-platform" })
  }
}

provider "aws" {
  alias               = "replica"
  region              = coalesce(var.replica_region, var.region)
  allowed_account_ids = [var.account_id]
  default_tags {
    tags = merge(local.tags, { stage = "1-platform" })
  }
}

module "kms" {
  source     = "../../modules/kms"
  name       = var.name
  account_id = var.account_id
  region     = var.region
}

module "replica_kms" {
  count      = var.replica_region == null ? 0 : 1
  source     = "../../modules/kms"
  providers  = { aws = aws.replica }
  name       = var.name
  account_id = var.account_id
  region     = var.replica_region
  purpose    = "replica"
}

module "alerts" {
  source      = "../../modules/alerts"
  name        = var.name
  account_id  = var.account_id
  kms_key_arn = module.kms.key_arn
  emails      = var.alert_emails
}

module "boundary" {
  count   = var.security.boundary ? 1 : 0
  source  = "../../modules/boundary"
  name    = var.name
  regions = compact([var.region, var.replica_region])
}

locals {
  permissions_boundary_arn = one(module.boundary[*].arn)
}

module "network" {
  source                   = "../../modules/network"
  name                     = var.name
  account_id               = var.account_id
  region                   = var.region
  availability_zones       = var.availability_zones
  vpc_cidr                 = var.network.vpc_cidr
  nat                      = var.network.nat
  interface_endpoints      = var.network.interface_endpoints
  flow_log_days            = var.network.flow_log_days
  kms_key_arn              = module.kms.key_arn
  permissions_boundary_arn = local.permissions_boundary_arn
  alerts_topic_arn         = module.alerts.topic_arn
}

module "storage" {
  source                   = "../../modules/storage"
  providers                = { aws = aws, aws.replica = aws.replica }
  name                     = var.name
  account_id               = var.account_id
  region                   = var.region
  kms_key_arn              = module.kms.key_arn
  keep_versions_days       = var.storage.keep_versions_days
  log_days                 = var.storage.log_days
  scratch_days             = var.storage.scratch_days
  copies                   = var.replica_region != null
  replica_kms_key_arn      = one(module.replica_kms[*].key_arn)
  permissions_boundary_arn = local.permissions_boundary_arn
  force_destroy            = var.force_destroy
  alerts_topic_arn         = module.alerts.topic_arn
}

module "registry" {
  source           = "../../modules/registry"
  name             = var.name
  kms_key_arn      = module.kms.key_arn
  force_delete     = var.force_destroy
  alerts_topic_arn = module.alerts.topic_arn
}

module "identity" {
  source                   = "../../modules/identity"
  name                     = var.name
  account_id               = var.account_id
  region                   = var.region
  kms_key_arn              = module.kms.key_arn
  data_bucket_arn          = module.storage.bucket_arns["data"]
  models_bucket_arn        = module.storage.bucket_arns["models"]
  repository_arns          = module.registry.repository_arns
  permissions_boundary_arn = local.permissions_boundary_arn
  github                   = var.security.github
}

module "audit" {
  count                    = var.security.trail ? 1 : 0
  source                   = "../../modules/audit"
  name                     = var.name
  account_id               = var.account_id
  region                   = var.region
  kms_key_arn              = module.kms.key_arn
  retention_days           = var.security.trail_days
  lock_days                = var.security.lock_days
  guardduty                = var.security.guardduty
  config                   = var.security.config
  permissions_boundary_arn = local.permissions_boundary_arn
  force_destroy            = var.force_destroy
  alerts_topic_arn         = module.alerts.topic_arn
  watched_bucket_arns = var.security.watch_objects ? [
    module.storage.bucket_arns["data"], module.storage.bucket_arns["models"]
  ] : []
}

module "budget" {
  source           = "../../modules/budget"
  name             = var.name
  usd_per_month    = var.budget.usd_per_month
  cost_tag         = var.budget.cost_tag
  anomaly_usd      = var.budget.anomaly_usd
  alerts_topic_arn = module.alerts.topic_arn
}
