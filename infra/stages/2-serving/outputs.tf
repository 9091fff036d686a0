output "serving" {
  description = "What stage 3 and the command line need, as one document. No secrets."
  value = {
    name                 = local.platform.name
    url                  = "https://${coalesce(var.host_name, module.balancer.dns_name)}"
    dns_name             = module.balancer.dns_name
    zone_id              = module.balancer.zone_id
    cluster_name         = module.cluster.name
    service_name         = module.service.name
    service_arn          = module.service.arn
    task_definition_arn  = module.service.task_definition_arn
    task_family          = module.service.name
    capacity_provider    = module.service.capacity_provider
    container_name       = "gateway"
    container_port       = module.service.container_port
    role_arns            = module.service.role_arns
    security_group_id    = module.service.security_group_id
    log_group_name       = module.service.log_group_name
    listener_arns        = module.balancer.listener_arns
    target_groups        = module.balancer.target_groups
    rollback_alarm_names = sort(concat(module.balancer.alarm_names, module.service.alarm_names))
    engine               = var.engine.kind
    model                = var.model
    tasks                = var.tasks
    database = length(module.database) == 0 ? null : {
      cluster_arn      = module.database[0].cluster_arn
      admin_secret_arn = module.database[0].admin_secret_arn
    }
  }
}
