output "delivery" {
  description = "What the command line needs to deliver, as one document. No secrets."
  value = {
    name                   = local.platform.name
    pipeline_name          = module.pipeline.name
    project_names          = { for purpose, one in module.build : purpose => one.name }
    artifact_bucket        = module.pipeline.artifact_bucket
    application_name       = module.rollout.application_name
    deployment_group_name  = module.rollout.deployment_group_name
    deployment_config_name = module.rollout.deployment_config_name
  }
}
