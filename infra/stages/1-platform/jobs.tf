# What makes data and models. All of it costs only while a job runs, but for the tracking server and the box.

module "catalog" {
  source                  = "../../modules/catalog"
  name                    = var.name
  kms_key_arn             = module.kms.key_arn
  data_bucket             = module.storage.bucket_names["data"]
  role_arn                = module.identity.role_arns["glue"]
  vpc_id                  = module.network.vpc_id
  subnet_id               = module.network.private_subnet_ids[0]
  availability_zone       = var.availability_zones[0]
  worker_type             = var.jobs.glue_worker_type
  max_workers             = var.jobs.glue_max_workers
  encrypt_account_catalog = var.jobs.encrypt_account_catalog
  alerts_topic_arn        = module.alerts.topic_arn
}

module "emr" {
  source           = "../../modules/emr"
  name             = var.name
  vpc_id           = module.network.vpc_id
  subnet_ids       = module.network.private_subnet_ids
  max_vcpus        = var.jobs.emr_max_vcpus
  alerts_topic_arn = module.alerts.topic_arn
}

module "batch" {
  source               = "../../modules/batch"
  name                 = var.name
  vpc_id               = module.network.vpc_id
  subnet_ids           = module.network.private_subnet_ids
  kms_key_arn          = module.kms.key_arn
  instance_profile_arn = module.identity.batch_instance_profile_arn
  job_role_arn         = module.identity.role_arns["batch-job"]
  execution_role_arn   = module.identity.role_arns["batch-execution"]
  image                = "${module.registry.repository_urls["train"]}:${var.jobs.image_tag}"
  queues               = var.jobs.batch_queues
  alerts_topic_arn     = module.alerts.topic_arn
}

module "sagemaker" {
  source                   = "../../modules/sagemaker"
  name                     = var.name
  account_id               = var.account_id
  kms_key_arn              = module.kms.key_arn
  vpc_id                   = module.network.vpc_id
  role_arn                 = module.identity.role_arns["sagemaker"]
  models_bucket            = module.storage.bucket_names["models"]
  pipeline_file            = var.jobs.pipeline_file
  mlflow                   = var.jobs.mlflow
  permissions_boundary_arn = local.permissions_boundary_arn
  alerts_topic_arn         = module.alerts.topic_arn
}

# The second region's vault; the first region's plan copies into it.
resource "aws_backup_vault" "copy" {
  count         = var.replica_region == null ? 0 : 1
  provider      = aws.replica
  name          = "${var.name}-copy"
  kms_key_arn   = module.replica_kms[0].key_arn
  force_destroy = var.force_destroy
}

module "backup" {
  source                   = "../../modules/backup"
  name                     = var.name
  account_id               = var.account_id
  kms_key_arn              = module.kms.key_arn
  keep_days                = var.backup.keep_days
  lock_min_days            = var.backup.lock_min_days
  copies                   = var.replica_region != null
  copy_vault_arn           = one(aws_backup_vault.copy[*].arn)
  permissions_boundary_arn = local.permissions_boundary_arn
  force_destroy            = var.force_destroy
  alerts_topic_arn         = module.alerts.topic_arn
}

module "devbox" {
  count                    = var.devbox == null ? 0 : 1
  source                   = "../../modules/devbox"
  name                     = var.name
  account_id               = var.account_id
  region                   = var.region
  vpc_id                   = module.network.vpc_id
  subnet_id                = module.network.private_subnet_ids[0]
  kms_key_arn              = module.kms.key_arn
  bucket_arns              = [module.storage.bucket_arns["data"], module.storage.bucket_arns["models"]]
  instance_type            = var.devbox.instance_type
  disk_gib                 = var.devbox.disk_gib
  idle_minutes             = var.devbox.idle_minutes
  stop_at                  = var.devbox.stop_at
  permissions_boundary_arn = local.permissions_boundary_arn
  alerts_topic_arn         = module.alerts.topic_arn
}
