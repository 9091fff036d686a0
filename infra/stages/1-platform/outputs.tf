output "platform" {
  description = "What later stages take as their variable `platform`: `terraform output -json platform > platform.json`."
  value = {
    name                       = var.name
    region                     = var.region
    account_id                 = var.account_id
    vpc_id                     = module.network.vpc_id
    vpc_cidr                   = module.network.vpc_cidr
    private_subnet_ids         = module.network.private_subnet_ids
    public_subnet_ids          = module.network.public_subnet_ids
    endpoint_security_group_id = module.network.endpoint_security_group_id
    kms_key_arn                = module.kms.key_arn
    data_bucket                = module.storage.bucket_names["data"]
    models_bucket              = module.storage.bucket_names["models"]
    logs_bucket                = module.storage.bucket_names["logs"]
    data_bucket_arn            = module.storage.bucket_arns["data"]
    models_bucket_arn          = module.storage.bucket_arns["models"]
    logs_bucket_arn            = module.storage.bucket_arns["logs"]
    ecr_repository_urls        = module.registry.repository_urls
    alerts_topic_arn           = module.alerts.topic_arn
    permissions_boundary_arn   = local.permissions_boundary_arn
    tags                       = local.tags
  }
}

output "jobs" {
  description = "What `nexus` needs to start jobs: roles, queues, names, groups."
  value = {
    role_arns                  = module.identity.role_arns
    glue_job                   = module.catalog.job_name
    glue_database              = module.catalog.database
    glue_security              = module.catalog.security_configuration
    athena_workgroup           = module.catalog.workgroup
    emr_application_id         = module.emr.application_id
    batch_queue_arns           = module.batch.queue_arns
    batch_job_definition       = module.batch.job_definition_arn
    model_package_group        = module.sagemaker.model_package_group
    training_security_group_id = module.sagemaker.security_group_id
    training_subnet_ids        = module.network.private_subnet_ids
    pipeline_arn               = module.sagemaker.pipeline_arn
    mlflow_arn                 = module.sagemaker.mlflow_arn
    backup_vault_arn           = module.backup.vault_arn
    github_role_arn            = module.identity.github_role_arn
    devbox_id                  = one(module.devbox[*].instance_id)
  }
}
